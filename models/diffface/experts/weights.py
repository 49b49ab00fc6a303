"""How much each expert weighs, and when it speaks."""

from __future__ import annotations

from typing import Final

from pydantic import Field, model_validator

from models.swap.config import FrozenConfig

IDENTITY_WEIGHT: Final = 6000.0
PARSING_WEIGHT: Final = 200.0
GAZE_WEIGHT: Final = 200.0
PIXEL_WEIGHT: Final = 50.0
GAZE_WINDOW: Final = (10, 50)
"""Weights and window of the published program. The paper's own numbers differ, and its losses too."""

PARSED_CLASSES: Final = (1, 2, 3, 4, 5, 10, 11, 12, 13)
"""Classes the parsing expert compares: skin, brows, eyes, nose, mouth and lips (CelebAMask-HQ's codes)."""


class ExpertWeights(FrozenConfig):
    """Weights of the experts besides identity, whose weight is the argument `loss_weight`."""

    parsing: float = Field(default=PARSING_WEIGHT, ge=0, description="Weight of the parsing expert.")
    gaze: float = Field(default=GAZE_WEIGHT, ge=0, description="Weight of the gaze expert.")
    pixel: float = Field(default=PIXEL_WEIGHT, ge=0, description="Weight of the pixel expert.")
    gaze_window: tuple[int, int] = Field(
        default=GAZE_WINDOW,
        description="The gaze expert speaks where first < t < second, t being the step's number after "
        "respacing.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ExpertWeights:
        if self.gaze_window[0] >= self.gaze_window[1]:
            raise ValueError(
                f"gaze_window {self.gaze_window} is empty; the first number must be the smaller one"
            )
        return self

    def gaze_at(self, index: int) -> float:
        """Weight of the gaze expert at a step."""
        first, second = self.gaze_window
        return self.gaze if first < index < second else 0.0
