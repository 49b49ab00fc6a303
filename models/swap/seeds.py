"""Where the random numbers of a training come from: seed, step, purpose and row, and nothing else.

So any step of any run can be repeated, whoever works on its rows.
"""

from __future__ import annotations

import numpy as np
import torch

DATA, NOISE = 0, 1
"""Purposes of random numbers."""


def step_seed(seed: int, step: int, purpose: int, *more: int) -> np.random.SeedSequence:
    """Return the seeds of one purpose of one step."""
    return np.random.SeedSequence([seed, step, purpose, *more])


def seeded_generator(seeds: np.random.SeedSequence) -> torch.Generator:
    """Return a generator of the CPU that starts at these seeds."""
    state = int(seeds.generate_state(1, np.uint64)[0])
    return torch.Generator("cpu").manual_seed(state & (2**63 - 1))
