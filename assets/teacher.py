"""`teacher`: APPLE's first model, which learns face swapping as conditional deblurring.

Trained by same-person reconstruction: the condition image of a photo, the identity of another photo of the
same person, and the photo itself as the answer. Only the adapters of the condition branch learn.

Where a world's exact swaps are known, the same network can learn those instead: another person's identity,
and the exact swap as the answer. That is no part of the paper, but the ceiling to read its results beside.
"""

from __future__ import annotations

from typing import Literal

from assets.condition import OWN_CONDITION, ConditionNames
from assets.curves import loss_curve
from assets.evaluation_pairs import truths_content
from assets.exact_swaps import exact_swap_data
from assets.stage import ArtifactStage, Input, StageContext
from assets.swap_base import PROMPTS_STAGE, open_base
from assets.training import TrainingConfig, keep_losses_only, train_checkpoint
from assets.training_data import teacher_data
from assets.training_rows import need_artifact
from resources.lake.lake import Artifact
from resources.lake.recipes import of_recipe

CODE_VERSION = "1"
TeacherLearns = Literal["same_person", "exact_swaps"]
"""A person's photograph from another one of theirs, or a world's exact swaps."""


def teacher_stage(
    config: TrainingConfig,
    recipe: str | None = None,
    names: ConditionNames = OWN_CONDITION,
    learns: TeacherLearns = "same_person",
) -> ArtifactStage:
    """The stage `teacher` of a recipe: adapters trained on its release, with its condition image."""
    stage, released = of_recipe("teacher", recipe), of_recipe("release", recipe)
    exact = learns == "exact_swaps"
    version = f"{CODE_VERSION}-{learns}" if exact else CODE_VERSION

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        release = need_artifact(context.lake, released)
        base = open_base(context, config.base)
        prepared = (
            exact_swap_data(context.lake, release, base, config, names, context.report)
            if exact
            else teacher_data(context.lake, release, base, config, names)
        )
        return train_checkpoint(
            context,
            config,
            base,
            prepared.data,
            validation_rows=prepared.validation,
            stage=stage,
            code_version=version,
            fingerprint=fingerprint,
            parents={"release": release},
        )

    return ArtifactStage(
        name=stage,
        by_recipe=True,
        code_version=version,
        description="LoRA on the condition branch, trained on a world's exact swaps: a ceiling, not APPLE."
        if exact
        else "LoRA on the condition branch, trained to undo APPLE's condition image.",
        config=config,
        inputs=(Input(PROMPTS_STAGE), Input(released)),
        weights=config.roles,
        build=build,
        extra_content=(lambda lake: truths_content(lake, "training")) if exact else None,
        finish=keep_losses_only,
        preview=loss_curve,
    )
