"""How sure a mean is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_BATCH_NUMBERS = 4_000_000


class Interval(NamedTuple):
    """A mean between the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_with_interval(
    values: ArrayLike, seed: int, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Mean of `values` (N,) with its percentile bootstrap interval (Efron 1979), repeatable by `seed`.

    Booleans count as 0 and 1. The interval speaks of the rows only: other training seeds are another matter.
    Raises `ValueError` for an empty, non-finite or not flat input, or a confidence outside (0, 1).
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(f"values must be a non-empty flat array, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"value {int(np.argmin(np.isfinite(numbers)))} is not finite; drop such rows knowingly"
        )
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(
            f"confidence must lie in (0, 1) and resamples be positive, got {confidence}, {resamples}"
        )
    generator = np.random.default_rng(seed)
    batch = max(1, _BATCH_NUMBERS // len(numbers))
    means = np.concatenate(
        [
            numbers[generator.integers(len(numbers), size=(min(batch, resamples - done), len(numbers)))].mean(
                axis=1
            )
            for done in range(0, resamples, batch)
        ]
    )
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(numbers.mean()), float(low), float(high))
