"""What a swap gives back: pictures, distances, and why a repeat stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.diffface.panels import Figure
from models.diffface.ranking import ranked
from models.faces.images import Image


class StopReason(StrEnum):
    """Why a repeat gave no picture."""

    GRADIENT_NOT_FINITE = "gradient_not_finite"
    PICTURE_NOT_FINITE = "picture_not_finite"

    @property
    def advice(self) -> str:
        """What to do about it, in a sentence."""
        if self is StopReason.GRADIENT_NOT_FINITE:
            return "the guidance overflowed; lower loss_weight, or hold the denoiser's torso in float32"
        return "the picture overflowed; lower loss_weight or gradient_limit, or check the denoiser's weights"


@dataclass(frozen=True)
class RepeatResult:
    """One repeat of one pair.

    Attributes:
        row: position of the pair in the call.
        repeat: 0 to iterations_num - 1.
        image_HWC: the swap, uint8; the target where the repeat stopped.
        distance: 1 - cosine to the source's identity; NaN where the repeat stopped, or without identity
        expert. reason: why it stopped, or None.
        notes: what the experts could not do as usual, in words.
        figures: six-panel figures, oldest first, where they were asked for.
    """

    row: int
    repeat: int
    image_HWC: Image
    distance: float
    reason: StopReason | None
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class SwapResult:
    """All repeats of all pairs.

    Attributes:
        repeats: [row][repeat].
    """

    repeats: Sequence[Sequence[RepeatResult]]

    def best(self, row: int) -> RepeatResult:
        """The repeat of a pair whose identity is nearest to the source's."""
        return self.repeats[row][int(ranked([repeat.distance for repeat in self.repeats[row]])[0])]

    @property
    def images_NHWC(self) -> NDArray[np.uint8]:
        """The best repeat of each pair, uint8 (N, H, W, 3)."""
        return np.stack([self.best(row).image_HWC for row in range(len(self.repeats))])

    @property
    def distances_N(self) -> NDArray[np.float64]:
        """Identity distance of the best repeat of each pair."""
        return np.array([self.best(row).distance for row in range(len(self.repeats))])

    @property
    def images_NRHWC(self) -> NDArray[np.uint8]:
        """All repeats, uint8 (N, R, H, W, 3), in the order they were made."""
        return np.stack([np.stack([repeat.image_HWC for repeat in row]) for row in self.repeats])

    @property
    def distances_NR(self) -> NDArray[np.float64]:
        """Identity distances of all repeats."""
        return np.array([[repeat.distance for repeat in row] for row in self.repeats])

    @property
    def reasons_NR(self) -> list[list[StopReason | None]]:
        """Why repeats stopped; None where they did not."""
        return [[repeat.reason for repeat in row] for row in self.repeats]
