"""Named runs: a profile fixes sizes, weights and settings of every stage. It never changes code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from assets.aesthetics import aesthetics_stage
from assets.condition import ConditionStageConfig, condition_stage
from assets.evaluation import EvaluationConfig, evaluation_stage
from assets.identity_embedding import identity_embedding_stage
from assets.iris import iris_stage
from assets.landmarks import LandmarksConfig, landmarks_stage
from assets.latents import LatentsConfig, latents_stage
from assets.masks import masks_stage
from assets.pseudo_triplets import PseudoTripletsConfig, pseudo_triplets_stage
from assets.release import ReleaseConfig, release_stage
from assets.stage import StageGraph
from assets.student import student_stage
from assets.swaps import SwapsConfig, swaps_stage
from assets.teacher import TrainingConfig, teacher_stage
from assets.triplets_release import triplets_release_stage
from models.faces.condition import ConditionRecipe
from models.swap.config import SamplingConfig, TrainingRecipe

DEFAULT_PROFILE = "tiny"


@dataclass(frozen=True)
class Profile:
    """A named run."""

    name: str
    description: str
    build: Callable[[], StageGraph]

    def graph(self) -> StageGraph:
        """All stages of this profile, upstream first."""
        return self.build()


def build_graph(
    *,
    base: str,
    size: int,
    teacher: TrainingRecipe,
    student: TrainingRecipe,
    sampling: SamplingConfig,
    triplets: int,
    swap_pairs: int,
    pair_shard_size: int,
) -> StageGraph:
    """The DAG of the CPU profiles: real faces, our own small FLUX named by its weight role `base`."""
    dots = ConditionRecipe(landmark_radius=0, iris_radius=0)
    condition = ConditionStageConfig(image=dots, size=size)
    plain = sampling.model_copy(update={"inversion": None})
    return StageGraph(
        (
            landmarks_stage(LandmarksConfig()),
            iris_stage(),
            masks_stage(),
            aesthetics_stage(),
            identity_embedding_stage(),
            condition_stage(condition),
            latents_stage(LatentsConfig(condition=condition, base=base)),
            release_stage(
                ReleaseConfig(triplets=triplets, swap_pairs=swap_pairs, pair_shard_size=pair_shard_size)
            ),
            teacher_stage(TrainingConfig(base=base, recipe=teacher)),
            pseudo_triplets_stage(PseudoTripletsConfig(base=base, sampling=sampling)),
            triplets_release_stage(),
            student_stage(TrainingConfig(base=base, recipe=student)),
            swaps_stage(SwapsConfig(base=base, sampling=plain, inversion=sampling)),
            evaluation_stage(EvaluationConfig(size=size, base=base)),
        )
    )


def tiny() -> StageGraph:
    """Our own small FLUX at 32 px, real face models from packages: minutes on a laptop's CPU."""
    recipe = TrainingRecipe(
        steps=240,
        batch_size=32,
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=10,
        identity_loss_weight=0.0,
        checkpoint_interval=60,
    )
    return build_graph(
        base="tiny_base",
        size=32,
        teacher=recipe,
        student=recipe.model_copy(update={"seed": 1}),
        # at 1 the tiny base hardly shows the source's identity; its model card has the figures
        sampling=SamplingConfig(steps=12, id_guidance_scale=4.0),
        triplets=96,
        swap_pairs=32,
        pair_shard_size=48,
    )


def smoke() -> StageGraph:
    """The same lines in seconds: a handful of steps. For tests; its pictures mean nothing."""
    recipe = TrainingRecipe(
        steps=6, batch_size=4, learning_rate=1e-3, identity_loss_weight=0.0, checkpoint_interval=2
    )
    return build_graph(
        base="tiny_base",
        size=32,
        teacher=recipe,
        student=recipe.model_copy(update={"seed": 1}),
        sampling=SamplingConfig(steps=2),
        triplets=6,
        swap_pairs=4,
        pair_shard_size=4,
    )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("tiny", "Our small FLUX at 32 px on real annotation: laptop CPU, minutes.", tiny),
        Profile("smoke", "The same stages with a few steps each: for tests, seconds.", smoke),
    )
}
"""Every profile by name."""


def profile(name: str) -> Profile:
    """The profile of that name. Raises KeyError that lists the names."""
    if name not in PROFILES:
        raise KeyError(f"no profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]
