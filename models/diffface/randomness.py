"""Where the random numbers of a swap come from: seed, row, repeat, purpose and step, and nothing else.

So a swap comes out the same in whichever batch it is made, and each step can be repeated alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What random numbers are for."""

    START = 0
    STEP = 1
    BLEND = 2
    VIEWS = 3


@dataclass(frozen=True)
class Draw:
    """The random numbers of one repeat of one pair.

    Attributes:
        seed: of the settings.
        row: the pair's own number, 0 or more.
        repeat: 0 or more.
    """

    seed: int
    row: int
    repeat: int

    def generator(self, purpose: Purpose, index: int) -> torch.Generator:
        """A generator of the CPU for one purpose at one step."""
        seeds = np.random.SeedSequence([self.seed, self.row, self.repeat, int(purpose), index])
        state = int(seeds.generate_state(1, np.uint64)[0])
        return torch.Generator("cpu").manual_seed(state & (2**63 - 1))


@dataclass(frozen=True)
class Moment:
    """A step of a batch of swaps.

    Attributes:
        index: the step's number after respacing.
        draws: random numbers of each row.
    """

    index: int
    draws: Sequence[Draw]

    def noise(self, purpose: Purpose, shape: Sequence[int], device: torch.device) -> Tensor:
        """Standard normal noise (B, *shape) float32; drawn on the CPU, whatever the device."""
        rows = [torch.randn(*shape, generator=draw.generator(purpose, self.index)) for draw in self.draws]
        return torch.stack(rows).to(device)
