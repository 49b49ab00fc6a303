"""The pixel expert: the picture stays near the target, face included (DiffFace's program, not its paper)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.diffface.experts.expert import Prepared, SwapPair, stacked
from models.diffface.randomness import Moment
from models.diffface.settings import DiffFaceSettings


class PixelExpert:
    """Mean squared difference to the target over the whole picture, in the scale -1..1 of the diffusion."""

    name = "pixel"

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        """The same at every step."""
        return settings.expert_weights.pixel

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        """Keep the target."""
        return Prepared({"target": pair.target_3HW})

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        """(B,); pictures come in 0..1, a difference there is half of one in -1..1."""
        difference = 2 * (images_B3HW - stacked(prepared, "target"))
        return difference.square().flatten(1).mean(dim=1)
