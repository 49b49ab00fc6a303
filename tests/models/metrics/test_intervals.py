from __future__ import annotations

import numpy as np
import pytest

from models.metrics import mean_with_interval


def test_the_mean_is_exact_and_the_seed_repeats() -> None:
    values = np.append(np.random.default_rng(9).random(29), 5.0)
    first = mean_with_interval(values, seed=4)
    assert first.mean == values.mean()
    assert first == mean_with_interval(values, seed=4)
    assert first[1:] != mean_with_interval(values, seed=5)[1:]
    assert first.low < first.mean < first.high
    assert mean_with_interval(np.full(9, 0.3), seed=0) == pytest.approx((0.3, 0.3, 0.3))


def test_the_width_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    mean, low, high = mean_with_interval(values, seed=1, resamples=5000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert high - mean == pytest.approx(half, rel=0.08)
    assert mean - low == pytest.approx(half, rel=0.08)
    _, narrow_low, narrow_high = mean_with_interval(values, seed=1, confidence=0.5)
    assert narrow_high - narrow_low < 0.45 * (high - low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for trial in range(200):
        _, low, high = mean_with_interval(generator.random(60) < 0.3, seed=trial, resamples=500)
        held += low <= 0.3 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_long_inputs_are_resampled_in_batches() -> None:
    values = np.random.default_rng(3).random(30_000)
    mean, low, high = mean_with_interval(values, seed=0, resamples=300)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(2 * half, rel=0.25)
    assert low < mean < high


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        mean_with_interval([], seed=0)
    with pytest.raises(ValueError, match="flat"):
        mean_with_interval(np.ones((2, 2)), seed=0)
    with pytest.raises(ValueError, match="value 1 is not finite"):
        mean_with_interval([1.0, np.nan], seed=0)
    with pytest.raises(ValueError, match="confidence"):
        mean_with_interval([1.0], seed=0, confidence=1.0)
