"""Recipes: every choice of one training round, named, so that several live side by side in one lake.

A recipe is a partition of what is trained and made (release, teacher, triplets, student, swaps, evaluation);
annotation is shared. A profile's first recipe is its default; the others are the paper's ablations, each one
change of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from assets.frontier_config import SweepConfig
from assets.release import ReleaseConfig
from assets.teacher import TeacherLearns
from assets.triplets_release import TripletsReleaseConfig
from models.faces.condition import ConditionRecipe
from models.identity.loss_networks import FaceEncoderConfig
from models.swap.config import FrozenConfig
from models.swap.constants import STUDENT_IDENTITY_THRESHOLD
from models.swap.sampling_config import SamplingConfig
from models.swap.training_recipe import TrainingRecipe


class Recipe(FrozenConfig):
    """One training round: what is learnt from which rows, how, and how it is sampled."""

    name: str = Field(description="A partition key, and the part of its stages' names after @.")
    description: str = Field(description="One sentence for `orchard recipes`.")
    condition: ConditionRecipe = Field(description="The condition image that the teacher learns to undo.")
    landmarks: Literal["target", "source_shape"] = Field(
        default="target",
        description="Whose face shape the landmarks of a swap's condition image show. The paper draws the "
        "target's own points, and with them its outline; source_shape puts the source's shape into the "
        "target's pose and expression.",
    )
    face_encoder: FaceEncoderConfig = Field(
        default=FaceEncoderConfig(), description="Network and crop of the identity loss, where there is one."
    )
    release: ReleaseConfig = Field(description="Which rows are trained on, how many pairs are made.")
    teacher: TrainingRecipe = Field(description="How the teacher is trained.")
    teacher_learns: TeacherLearns = Field(
        default="same_person",
        description="same_person: APPLE's deblurring, with the identity of another photograph of the same "
        "person. exact_swaps: the exact swaps of a world, of the pairs that are listed for training.",
    )
    triplets: TripletsReleaseConfig = Field(
        default=TripletsReleaseConfig(), description="Which of the triplets the student learns from."
    )
    student: TrainingRecipe = Field(description="How the student is trained, from the teacher's adapters.")
    sampling: SamplingConfig = Field(
        description="How triplets are made and swaps sampled; teacher and student alone do without inversion."
    )
    inverted_id_guidance_scale: float | None = Field(
        default=None,
        ge=0,
        description="Identity guidance from an inverted target: of triplets and of teacher_inversion, whose "
        "start holds on to the target's face. None is that of `sampling`, as in the paper.",
    )
    sweep: SweepConfig = Field(
        default=SweepConfig(), description="Guidance scales and methods that its frontier measures."
    )

    @property
    def inverted_sampling(self) -> SamplingConfig:
        """How triplets are made, and swaps by teacher_inversion."""
        if self.inverted_id_guidance_scale is None:
            return self.sampling
        return self.sampling.model_copy(update={"id_guidance_scale": self.inverted_id_guidance_scale})

    def varied(self, name: str, description: str, **changes: Any) -> Recipe:
        """The same recipe under another name, with some fields changed.

        Raises pydantic's ValidationError for a field that there is not, or a value that does not fit.
        """
        return Recipe.model_validate({**dict(self), "name": name, "description": description, **changes})

    def changed_from(self, other: Recipe) -> dict[str, Any]:
        """Every setting that differs from another recipe's, by dotted name."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return {key: value for key, value in mine.items() if theirs.get(key) != value and key not in _LABELS}


_LABELS = ("name", "description")


def as_student(teacher: TrainingRecipe, **changes: Any) -> TrainingRecipe:
    """How a student is trained from such a teacher: losses up to t = 0.5, validated by the target's person.

    Raises pydantic's ValidationError for a change that is none.
    """
    paper = {
        "identity_loss_threshold": STUDENT_IDENTITY_THRESHOLD,
        "lpips_threshold": STUDENT_IDENTITY_THRESHOLD,
        "validation_with_other_identity": False,
        "seed": teacher.seed + 1,
    }
    return TrainingRecipe.model_validate(teacher.model_dump() | paper | changes)


def with_ablations(baseline: Recipe) -> tuple[Recipe, ...]:
    """A recipe and its ablations: each differs from it in one thing."""
    black = baseline.condition.model_copy(update={"variant": "mask"})
    blurred = baseline.condition.model_copy(update={"variant": "blur"})
    silent = {"identity_loss_weight": 0.0}
    return (
        baseline,
        baseline.varied("inpainting", "The face is black: the paper's inpainting baseline.", condition=black),
        baseline.varied("blur", "The face is blurred instead of squeezed to 8 x 8.", condition=blurred),
        baseline.varied(
            "no_identity_loss",
            "Teacher and student learn by flow matching alone, as far as identity goes.",
            teacher=baseline.teacher.model_copy(update=silent),
            student=baseline.student.model_copy(update=silent),
        ),
        baseline.varied(
            "source_shape", "Swaps are drawn with the source's face shape.", landmarks="source_shape"
        ),
    )


def supervised_by_truth(baseline: Recipe) -> Recipe:
    """The ceiling: a teacher that learns a world's exact swaps, for as many steps as teacher and student."""
    teacher, student = baseline.teacher, baseline.student
    together = {
        "steps": teacher.steps + student.steps,
        "identity_loss_start": teacher.identity_loss_start + student.identity_loss_start,
        # it has as much to learn as a student has
        "learning_rate": student.learning_rate,
    }
    return baseline.varied(
        "supervised",
        "A ceiling, not APPLE: the teacher learns the world's exact swaps, in both models' steps.",
        teacher_learns="exact_swaps",
        teacher=teacher.model_copy(update=together),
    )


def condition_label(condition: ConditionRecipe) -> str:
    """What columns of this condition image are called when it is not the default recipe's."""
    face = {
        "downsample": f"downsample{condition.downsample_size}",
        "mask": "mask",
        "blur": f"blur{condition.blur_radius:g}".replace(".", "_"),
    }[condition.variant]
    dots = (("landmarks", condition.draw_landmarks), ("iris", condition.draw_iris))
    return face + "".join(f"_no_{word}" for word, drawn in dots if not drawn)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
