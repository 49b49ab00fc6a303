"""How a swap is sampled: steps, guidances, inversion; frozen and typed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.swap import constants
from models.swap.config import FrozenConfig

InversionConditioning = Literal["noID_trgCond", "trgID_trgCond", "trgID_noCond", "noID_noCond"]


class SamplingConfig(FrozenConfig):
    """How a swap is sampled, and whether the target is inverted first."""

    steps: int = Field(default=constants.INFERENCE_STEPS, ge=1, description="Steps from noise to image.")
    guidance_scale: float = Field(
        default=1.0, ge=0, description="Distilled guidance scalar fed to the model."
    )
    image_guidance_scale: float = Field(
        default=1.0, ge=0, description="1 is off; contrast with a black condition."
    )
    id_guidance_scale: float = Field(default=1.0, ge=0, description="1 is off; contrast with no identity.")
    shift: bool = Field(default=True, description="FLUX's resolution-dependent shift of the noise levels.")
    inversion: InversionConditioning | None = Field(
        default="noID_trgCond",
        description="What the model sees while the target is inverted; None starts at noise.",
    )
    inverse_steps: int | None = Field(
        default=None, ge=1, description="Steps inverted, and then sampled; None is all, fewer stop part-way."
    )
    second_order: bool = Field(
        default=False, description="Midpoint steps in the inversion instead of Euler's."
    )
    second_order_sampling: bool = Field(
        default=False,
        description="Midpoint steps from noise to image too; APPLE samples by Euler steps always. Only with "
        "both is the way there and back of second order.",
    )

    @model_validator(mode="after")
    def _inverse_steps_fit(self) -> SamplingConfig:
        if self.inverse_steps is not None and self.inverse_steps > self.steps:
            raise ValueError(f"inverse_steps {self.inverse_steps} exceeds steps {self.steps}")
        return self

    @property
    def passes(self) -> int:
        """Passes through the transformer for one batch: a measure of time, condition cache aside."""
        contrasts = (self.image_guidance_scale != 1.0) + (self.id_guidance_scale != 1.0)
        steps = self.steps if self.inversion is None else self.inverse_steps or self.steps
        sampling = steps * (1 + self.second_order_sampling) * (1 + contrasts)
        return sampling if self.inversion is None else sampling + steps * (1 + self.second_order)
