"""What an expert is: a loss on the picture, prepared once for each pair, and a weight at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from models.diffface.randomness import Moment
from models.diffface.settings import DiffFaceSettings


@dataclass(frozen=True)
class SwapPair:
    """One source and one target, on the device of the networks.

    Attributes:
        source_3HW: RGB in 0..1.
        identity_D: the source's embedding, of length 1.
        target_3HW: RGB in 0..1.
        mask_1HW: 1 on the target's face, 0 elsewhere.
        target_landmarks_682: (68, 2) px of the target, iBUG order; None where none were found.
        source_landmarks_682: the same of the source.
    """

    source_3HW: Tensor
    identity_D: Tensor
    target_3HW: Tensor
    mask_1HW: Tensor
    target_landmarks_682: Tensor | None = None
    source_landmarks_682: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """What an expert keeps of one pair.

    Attributes:
        tensors: by name, of this pair alone.
        note: what could not be done as usual, in words, or None.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    note: str | None = None


class Expert(Protocol):
    """A loss that guides a swap; its rows do not know each other."""

    @property
    def name(self) -> str:
        """Name in results and messages."""
        ...

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        """Factor of the loss at a step; at 0 the loss is not computed."""
        ...

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        """Whatever depends on the pair alone, computed once."""
        ...

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        """The loss of each row (B,), differentiable in the pictures (0..1, and beyond where they are
        noisy)."""
        ...


def stacked(prepared: Sequence[Prepared], name: str) -> Tensor:
    """One tensor of every pair as a batch."""
    return torch.stack([row.tensors[name] for row in prepared])
