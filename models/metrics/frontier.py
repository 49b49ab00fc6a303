"""What identity costs in attributes: sweeps over the strength of guidance, compared at equal identity.

A stronger identity guidance shows more of the source and keeps less of the target, so a method that looks
better in one column of a table may merely stand at another place of the same trade. Here every method is a
curve over its guidance scales, and methods are compared where their curves show equally much identity: the
attribute error is interpolated at that level, and its interval comes from a bootstrap over pairs in which all
methods are drawn with the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEAST_PAIRS = 5
"""A bootstrap over fewer pairs says nothing: no interval is given."""

LEAST_REACHED = 0.5
"""An interval is given where at least this share of the resamples reaches the identity level."""


@dataclass(frozen=True)
class Frontier:
    """One method's sweep: K guidance scales by N pairs.

    `scales_K` rises. `identity_KN` is higher for more of the source's identity, finite. `errors` holds (K, N)
    per attribute, lower is better, NaN for pairs without that attribute.

    Raises ValueError for shapes that do not fit, scales that do not rise, or an identity that is not finite.
    """

    scales_K: NDArray[np.float64]
    identity_KN: NDArray[np.float64]
    errors: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        shape = self.identity_KN.shape
        if self.identity_KN.ndim != 2 or self.scales_K.shape != shape[:1] or 0 in shape:
            raise ValueError(
                f"identity must be (scales, pairs) = ({len(self.scales_K)}, pairs), got shape {shape}"
            )
        if wrong := [name for name, values in self.errors.items() if values.shape != shape]:
            raise ValueError(f"{wrong[0]} must have the shape of identity, {shape}")
        if (np.diff(self.scales_K) <= 0).any():
            raise ValueError(f"guidance scales must rise, got {self.scales_K.tolist()}")
        if not np.isfinite(self.identity_KN).all():
            raise ValueError("identity must be finite for every pair; leave pairs without it out knowingly")

    @property
    def reach(self) -> tuple[float, float]:
        """Least and largest mean identity of the sweep."""
        mean_K = self.identity_KN.mean(axis=1)
        return float(mean_K.min()), float(mean_K.max())


@dataclass(frozen=True)
class Estimate:
    """A value between the ends of its 95 % interval; NaN where too few pairs or resamples have it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MatchedMethod:
    """One method at an identity level: at which guidance scale it gets there, and with which errors.

    `scale` is interpolated. `reached` is the share of resamples in which the method gets there; `differences`
    are its errors less the reference's at the same level, pair by pair the same resamples.
    """

    level: float
    scale: float
    reached: float
    errors: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


def shared_range(frontiers: Mapping[str, Frontier]) -> tuple[float, float] | None:
    """Lowest and highest identity that the mean curves of all methods reach; None if there is none."""
    reaches = [frontier.reach for frontier in frontiers.values()]
    low, high = max(low for low, _ in reaches), min(high for _, high in reaches)
    return (low, high) if low <= high else None


def compare_at_matched_identity(
    frontiers: Mapping[str, Frontier],
    reference: str,
    seed: int,
    level: float | None = None,
    resamples: int = RESAMPLES,
    runs: int = 1,
) -> dict[str, MatchedMethod | None]:
    """Every method at the identity where it is compared with the reference, and the difference of errors.

    All methods are compared at `level`; without one, in the middle of what all of them reach, and where that
    is nothing, each one in the middle of what it and the reference reach. None stands for a method that
    shares no level with the reference, or whose identity does not move with the guidance at all.

    With `runs` above 1 the N columns are as many training runs on the same pairs, run after run, and the
    intervals come from a bootstrap over both (`resampled_weights`).

    Raises ValueError when the reference is missing, or when methods were not measured on equally many pairs.
    """
    if reference not in frontiers:
        raise ValueError(f"no frontier of {reference}; there are: {', '.join(frontiers)}")
    counts = {frontier.identity_KN.shape[1] for frontier in frontiers.values()}
    if len(counts) > 1:
        raise ValueError(f"all methods must be measured on the same pairs, got {sorted(counts)} pairs")
    weights_RN = resampled_weights(counts.pop(), seed, resamples, runs)
    moving = {name: item for name, item in frontiers.items() if item.reach[0] < item.reach[1]}
    everywhere = shared_range(moving) if reference in moving else None
    found: dict[str, MatchedMethod | None] = {}
    for name, frontier in frontiers.items():
        if name not in moving or reference not in moving:
            found[name] = None
            continue
        reach = everywhere or shared_range({name: frontier, reference: frontiers[reference]})
        chosen = level if level is not None else None if reach is None else sum(reach) / 2
        found[name] = None if chosen is None else _matched(frontier, frontiers[reference], chosen, weights_RN)
    return found


def resampled_weights(
    columns: int, seed: int, resamples: int = RESAMPLES, runs: int = 1
) -> NDArray[np.float64]:
    """How often each column is drawn, as shares: (1 + R, N); the first row is the sample itself.

    With `runs` above 1 the columns are so many training runs on the same pairs, run after run. Then runs and
    pairs are drawn, each with replacement: all runs that are drawn keep the same pairs.

    Raises ValueError when the columns are not the same number for every run.
    """
    if columns % runs:
        raise ValueError(f"{columns} columns are not equally many pairs of {runs} runs")
    pairs = columns // runs
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=resamples)
    drawn_runs = generator.multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    crossed = (drawn_runs[:, :, None] * draws[:, None, :]).reshape(resamples, columns)
    return np.concatenate([np.ones((1, columns)), crossed]) / columns


def _matched(
    frontier: Frontier, reference: Frontier, level: float, weights_RN: NDArray[np.float64]
) -> MatchedMethod | None:
    place_R, there_R = _places(frontier, level, weights_RN), _places(reference, level, weights_RN)
    if np.isnan(place_R[0]) or np.isnan(there_R[0]):
        return None
    errors, differences = {}, {}
    for name, values_KN in frontier.errors.items():
        enough = int(np.isfinite(values_KN).all(axis=0).sum()) >= LEAST_PAIRS
        own_R = _read_off(_curves(values_KN, weights_RN), place_R)
        errors[name] = _estimate(own_R, enough)
        if name in reference.errors:
            other_R = _read_off(_curves(reference.errors[name], weights_RN), there_R)
            differences[name] = _estimate(own_R - other_R, enough)
    scale = float(_read_off(frontier.scales_K[:, None], place_R[:1])[0])
    return MatchedMethod(level, scale, float(np.isfinite(place_R[1:]).mean()), errors, differences)


def _curves(values_KN: NDArray[np.float64], weights_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the pairs of every resample, (K, R); pairs without a value take no part."""
    known_KN = np.isfinite(values_KN)
    sums = np.where(known_KN, values_KN, 0.0) @ weights_RN.T
    shares = known_KN.astype(np.float64) @ weights_RN.T
    return np.divide(sums, shares, out=np.full_like(sums, np.nan), where=shares > 0)


def _places(frontier: Frontier, level: float, weights_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each resample's identity curve first meets the level, as a fractional index of scales; or NaN.

    First means with the least guidance: a curve that turns back meets a level more than once.
    """
    curves_KR = _curves(frontier.identity_KN, weights_RN) - level
    place_R = np.where(curves_KR[0] == 0, 0.0, np.nan)
    for index in range(len(curves_KR) - 1):
        here_R, next_R = curves_KR[index], curves_KR[index + 1]
        meets_R = np.isnan(place_R) & (here_R != next_R) & (np.sign(here_R) != np.sign(next_R))
        step_R = np.divide(here_R, here_R - next_R, out=np.zeros_like(here_R), where=meets_R)
        place_R[meets_R] = index + step_R[meets_R]
    return place_R


def _read_off(curves_KR: NDArray[np.float64], place_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the curves at fractional indices, linear between scales; NaN where the index is NaN."""
    there_R = np.nan_to_num(place_R)
    lower_R = np.minimum(np.floor(there_R).astype(np.intp), max(len(curves_KR) - 2, 0))
    upper_R = np.minimum(lower_R + 1, len(curves_KR) - 1)
    columns = np.arange(curves_KR.shape[1])
    below_R, above_R = curves_KR[lower_R, columns], curves_KR[upper_R, columns]
    values_R = below_R + (there_R - lower_R) * (above_R - below_R)
    return np.where(np.isnan(place_R), np.nan, values_R)


def _estimate(values_R: NDArray[np.float64], enough: bool) -> Estimate:
    drawn = values_R[1:][np.isfinite(values_R[1:])]
    if not enough or len(drawn) < LEAST_REACHED * (len(values_R) - 1):
        return Estimate(float(values_R[0]), float("nan"), float("nan"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values_R[0]), float(low), float(high))
