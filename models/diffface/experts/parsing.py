"""The parsing expert: the picture's parts stay where the target's are, by the logits of a face parser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.diffface.experts.expert import Prepared, SwapPair, stacked
from models.diffface.experts.weights import PARSED_CLASSES
from models.diffface.randomness import Moment
from models.diffface.settings import DiffFaceSettings
from models.faces.bisenet import PARSER_SIZE, BiSeNet
from models.faces.constants import CLASS_NAMES
from models.faces.network_inputs import imagenet_normalised

SECOND_NORMALISATION = 0.5
"""Mean and deviation that the published program takes off again after ImageNet's."""


class FaceParsing:
    """A parser of the 19 classes behind its own way of being shown pictures.

    Args:
        network: (B, 3, size, size) as `normalise` gives it to logits (B, 19, h, w); frozen, evaluating.
        size: side it takes, px; None takes pictures of any size.
        normalise: RGB in 0..1 to the network's own scale; None leaves it.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._network = network.eval()
        self._size = size
        self._normalise = normalise

    @classmethod
    def bisenet(cls, network: BiSeNet) -> FaceParsing:
        """DiffFace's parser: BiSeNet at 512 px on ImageNet's scale."""
        return cls(network, PARSER_SIZE, imagenet_normalised)

    def logits(self, images_B3HW: Tensor, *, double_normalisation: bool) -> Tensor:
        """Logits (B, 19, H, W) at the pictures' own size; differentiable.

        Args:
            images_B3HW: RGB in 0..1.
            double_normalisation: normalise once more by (x - 0.5) / 0.5, as the published program does.

        Raises:
            ValueError: a network with other classes.
        """
        side = images_B3HW.shape[2:]
        x = images_B3HW
        if self._size is not None and tuple(side) != (self._size, self._size):
            x = functional.interpolate(x, (self._size, self._size), mode="bilinear", align_corners=False)
        if self._normalise is not None:
            x = self._normalise(x)
        if double_normalisation:
            x = (x - SECOND_NORMALISATION) / SECOND_NORMALISATION
        logits = self._network(x)
        if logits.shape[1] != len(CLASS_NAMES):
            raise ValueError(f"a face parser has {len(CLASS_NAMES)} classes, this one {logits.shape[1]}")
        if logits.shape[2:] != side:
            logits = functional.interpolate(logits, side, mode="bilinear", align_corners=False)
        return logits

    @torch.no_grad()
    def codes(self, images_B3HW: Tensor, *, double_normalisation: bool) -> Tensor:
        """Class codes (B, H, W) uint8; arguments as of `logits`."""
        logits = self.logits(images_B3HW, double_normalisation=double_normalisation)
        return logits.argmax(dim=1).to(torch.uint8)


class ParsingExpert:
    """Sum over nine classes of the mean absolute difference of raw logits to the target's."""

    name = "parsing"

    def __init__(self, parsing: FaceParsing) -> None:
        self.parsing = parsing

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        """The same at every step."""
        return settings.expert_weights.parsing

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        """Keep the target's logits of the nine classes."""
        with torch.no_grad():
            return Prepared({"logits": self._compared(pair.target_3HW[None], settings)[0]})

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        """(B,)."""
        difference = self._compared(images_B3HW, settings) - stacked(prepared, "logits")
        return difference.abs().mean(dim=(2, 3)).sum(dim=1)

    def _compared(self, images_B3HW: Tensor, settings: DiffFaceSettings) -> Tensor:
        double = settings.compat.double_parser_normalisation
        return self.parsing.logits(images_B3HW, double_normalisation=double)[:, list(PARSED_CLASSES)]
