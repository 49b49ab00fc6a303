"""Which points of the trade between identity and attributes are measured; needs no model to be read."""

from __future__ import annotations

from pydantic import Field, field_validator

from assets.judges import JudgeConfig
from assets.stage import StageConfig
from assets.swaps import SwapsConfig
from models.swap.sampling_config import InversionConditioning

TEACHER, STUDENT, INVERTED = "teacher", "student", "teacher_inversion"
CONDITIONINGS: tuple[InversionConditioning, ...] = (
    "noID_noCond",
    "noID_trgCond",
    "trgID_noCond",
    "trgID_trgCond",
)


class SweepConfig(StageConfig):
    """The guidance scales and methods of a frontier. Time grows with scales x methods x pairs."""

    scales: tuple[float, ...] = Field(
        default=(1.0, 2.0, 3.0, 4.0, 6.0), min_length=1, description="Identity guidance scales, rising."
    )
    inversions: tuple[InversionConditioning, ...] = Field(
        default=CONDITIONINGS,
        description="What the teacher sees while it inverts the target, one method each.",
    )
    student: bool = Field(default=True, description="Whether the student is swept too.")
    pairs: int | None = Field(
        default=None, ge=1, description="At most so many pairs, the first by name; None takes all."
    )
    pictures: int = Field(default=2, ge=0, description="Of so many pairs the swaps themselves are kept.")

    @field_validator("scales")
    @classmethod
    def _rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if list(scales) != sorted(set(scales)):
            raise ValueError(f"guidance scales must rise, got {list(scales)}")
        return scales

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that are swept."""
        inverted = (f"{INVERTED}:{conditioning}" for conditioning in self.inversions)
        return (TEACHER, *inverted, *((STUDENT,) if self.student else ()))


class FrontierConfig(StageConfig):
    """How a recipe's pairs are swapped over and over, and who judges identity."""

    swaps: SwapsConfig = Field(description="Base and sampling, as of the stage swaps.")
    sweep: SweepConfig = Field(default=SweepConfig(), description="Scales and methods.")
    judges: tuple[JudgeConfig, ...] = Field(default=(), description="Networks that judge identity.")
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap intervals.")
