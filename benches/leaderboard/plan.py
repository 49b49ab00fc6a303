"""What is trained for the leaderboard and where it is measured: a plan, varied by a training seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pydantic import Field

from assets.frontier_config import CONDITIONINGS, INVERTED, STUDENT, TEACHER
from models.swap.config import FrozenConfig
from models.swap.training_recipe import TrainingRecipe
from models.worlds.benchmark import BENCHMARK_PAIRS
from pipeline.graph import Parts
from pipeline.profiles import tiny
from pipeline.recipes import Recipe, supervised_by_truth, with_ablations

WORLD_SEED = 700
"""World seed of the training people of training seed 0; seed n has other people. Below 1000, as the benchmark
asks of everything that is trained on."""

BASELINE, INPAINTING, SHAPED = "baseline", "inpainting", "source_shape"
SUPERVISED, LONG = "supervised", "teacher_long"
BASE = "base"
"""The shipped base without adapters: what its own training on exact swaps reaches before APPLE begins."""


class Plan(FrozenConfig):
    """Sizes of one round per training seed. Time is on one core of a laptop."""

    people: int = Field(default=80, ge=3, description="Training people; every seed has its own.")
    photos: int = Field(default=6, ge=2, description="Photographs of each.")
    photo_size: int = Field(default=192, ge=64, description="Side of all photographs and truths, px.")
    train_pairs: int = Field(default=800, ge=1, description="Exact swaps that `supervised` learns from.")
    pairs: int = Field(default=BENCHMARK_PAIRS, ge=2, description="The first pairs of the benchmark.")
    teacher_steps: int = Field(default=60, ge=2, description="Optimiser steps of the teacher.")
    student_steps: int = Field(default=480, ge=2, description="Optimiser steps of the student.")
    triplets: int = Field(default=480, ge=2, description="Pseudo triplets that a student learns from.")
    scales: tuple[float, ...] = Field(
        default=(1.0, 3.0, 6.0),
        min_length=1,
        description="Identity guidance scales; the profile's own is always among them.",
    )
    inversion_scales: tuple[float, ...] = Field(
        default=(1.0, 3.0, 6.0), min_length=1, description="Those of the inversions, which take longer."
    )
    pictures: int = Field(default=10, ge=1, description="Pairs that the page shows.")


FAST = Plan(
    people=8,
    photos=4,
    train_pairs=40,
    pairs=8,
    teacher_steps=4,
    student_steps=4,
    triplets=8,
    scales=(1.0,),
    inversion_scales=(1.0,),
)
"""Everything once, in a few minutes; its figures mean nothing."""


@dataclass(frozen=True)
class Entrant:
    """One method of the leaderboard: which adapters it wears, and how it swaps.

    `recipe` is the one that trains it, None for the base itself; `method` as in `assets.frontier_config`.
    """

    name: str
    recipe: str | None
    method: str
    conditioning: str | None = None

    @property
    def stage(self) -> str | None:
        """The stage that makes its adapters; None for the base itself."""
        if self.recipe is None:
            return None
        return STUDENT if self.method == STUDENT else TEACHER

    @property
    def label(self) -> str:
        """How rows are called: `inpainting/teacher`, `baseline/teacher_inversion:noID_trgCond`."""
        method = self.method if self.conditioning is None else f"{self.method}:{self.conditioning}"
        return f"{self.name}/{method}"


ENTRANTS = (
    Entrant(BASE, None, BASE),
    Entrant(BASELINE, BASELINE, TEACHER),
    *(Entrant(BASELINE, BASELINE, INVERTED, conditioning) for conditioning in CONDITIONINGS),
    Entrant(BASELINE, BASELINE, STUDENT),
    Entrant(INPAINTING, INPAINTING, TEACHER),
    Entrant(INPAINTING, INPAINTING, STUDENT),
    # the recipe differs where pairs are swapped: its teacher is the baseline's, weight by weight
    Entrant(SHAPED, BASELINE, TEACHER),
    Entrant(LONG, LONG, TEACHER),
    Entrant(SUPERVISED, SUPERVISED, TEACHER),
)
"""Every method that is swept, in the order of training."""


def bench_parts(plan: Plan, seed: int = 0) -> Parts:
    """The profile `tiny` with the plan's steps and triplets; first weights, data order and pairs by seed."""
    parts = tiny()
    own = parts.recipes[0]
    recipe = own.varied(
        BASELINE,
        own.description,
        teacher=training(own.teacher, plan.teacher_steps, seed=2 * seed),
        student=training(own.student, plan.student_steps, seed=2 * seed + 1),
        release=own.release.model_copy(
            update={"triplets": plan.triplets, "pair_shard_size": plan.triplets, "seed": 42 + seed}
        ),
    )
    return replace(
        parts, recipes=(*with_ablations(recipe), supervised_by_truth(recipe), long_teacher(recipe))
    )


def training(recipe: TrainingRecipe, steps: int, **changes: object) -> TrainingRecipe:
    """A training of other length: the identity loss sets in at the same share of it; nothing is held out."""
    start = recipe.identity_loss_start * steps // recipe.steps
    changes |= {"steps": steps, "identity_loss_start": start, "validation_interval": None}
    return TrainingRecipe.model_validate(recipe.model_dump() | changes)


def long_teacher(recipe: Recipe) -> Recipe:
    """The control of equal compute: a teacher alone, as long as teacher, triplets and student take."""
    steps = equal_steps(recipe)
    return recipe.varied(
        LONG,
        f"A teacher alone, in the compute of teacher, triplets and student: {steps} steps.",
        teacher=training(recipe.teacher, steps),
    )


def equal_steps(recipe: Recipe) -> int:
    """Steps of a teacher that take what teacher, triplets and student take together.

    A pass forward and back through the network counts as three passes forward.
    """
    passes = recipe.release.triplets * recipe.sampling.passes
    return recipe.teacher.steps + recipe.student.steps + math.ceil(passes / (3 * recipe.teacher.batch_size))


def recommended_scale(parts: Parts) -> float:
    """The identity guidance at which the profile swaps."""
    return parts.recipes[0].sampling.id_guidance_scale


def scales_of(plan: Plan, entrant: Entrant, recommended: float) -> tuple[float, ...]:
    """At which scales a method is measured, rising."""
    chosen = plan.inversion_scales if entrant.method == INVERTED else plan.scales
    return tuple(sorted({*chosen, recommended}))
