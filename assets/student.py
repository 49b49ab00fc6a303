"""`student`: APPLE's second model, trained on pseudo triplets; it needs no landmarks and no masks.

Its condition is a whole picture: in training the teacher's swap of a photo of A, with that photo as the
answer and the identity from another photo of A. It starts from the teacher's adapters.
"""

from __future__ import annotations

from assets.curves import loss_curve
from assets.stage import ArtifactStage, Input, StageContext
from assets.swap_base import PROMPTS_STAGE, open_base
from assets.training import TrainingConfig, checkpoint_folder, keep_losses_only, train_checkpoint
from assets.training_data import student_data
from assets.training_rows import need_artifact
from assets.triplets_release import released_triplets
from resources.lake.lake import Artifact
from resources.lake.recipes import of_recipe

CODE_VERSION = "2"


def student_stage(config: TrainingConfig, recipe: str | None = None) -> ArtifactStage:
    """The stage `student` of a recipe: adapters trained on its triplets, from its teacher."""
    stage, released, taught, pinned = (
        of_recipe(name, recipe) for name in ("student", "release", "teacher", "triplets_release")
    )

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        from models.swap.checkpoint import load_checkpoint

        lake = context.lake
        release, teacher = need_artifact(lake, released), need_artifact(lake, taught)
        triplets = need_artifact(lake, pinned)
        base = open_base(context, config.base)
        pair_ids = released_triplets(lake, triplets)
        prepared = student_data(lake, release, triplets, pair_ids, base, config)
        return train_checkpoint(
            context,
            config,
            base,
            prepared.data,
            validation_rows=prepared.validation,
            stage=stage,
            code_version=CODE_VERSION,
            fingerprint=fingerprint,
            parents={"release": release, "teacher": teacher, "triplets_release": triplets},
            initial_lora=load_checkpoint(checkpoint_folder(lake, teacher))[0],
        )

    return ArtifactStage(
        name=stage,
        by_recipe=True,
        code_version=CODE_VERSION,
        description="LoRA trained on pseudo triplets from the teacher's adapters: a clean picture in.",
        config=config,
        inputs=(Input(PROMPTS_STAGE), Input(released), Input(taught), Input(pinned)),
        weights=config.roles,
        build=build,
        finish=keep_losses_only,
        preview=loss_curve,
    )
