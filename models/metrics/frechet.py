"""The Frechet distance of two Gaussians fitted to features: what FID is, whatever network gives the features.

Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982); used on Inception
features by Heusel et al. (2017). Everything is float64. Fewer samples than dimensions leave the covariance
without full rank: the distance is then biased upwards, by an amount that depends on the number of samples,
so the result says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]


class FeatureStatistics:
    """Mean and covariance of feature rows that come in batches; no row is kept.

    Batches are joined by their means and their sums of products about the mean (Chan, Golub and LeVeque,
    1983), which loses no digits where features are far from zero. Means and sums are symmetric in the
    batches: how rows are cut into batches changes the result by rounding alone.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean_D: Numbers = np.zeros(dimensions)
        self._products_DD: Numbers = np.zeros((dimensions, dimensions))

    @property
    def dimensions(self) -> int:
        """Numbers in a feature row."""
        return len(self.mean_D)

    @property
    def covariance_DD(self) -> Numbers:
        """Unbiased covariance (D, D). Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two feature rows, there are {self.count}")
        return self._products_DD / (self.count - 1)

    def add(self, features_ND: ArrayLike) -> None:
        """Take in a batch (N, D). Raises ValueError for another shape or a value that is not finite."""
        features = np.asarray(features_ND, np.float64)
        if features.ndim != 2 or features.shape[1] != self.dimensions:
            raise ValueError(f"expected features (N, {self.dimensions}), got {features.shape}")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise ValueError(
                f"feature row {self.count + int(np.argmax(bad))} holds a value that is not finite"
            )
        if not len(features):
            return
        mean = features.mean(axis=0)
        centred = features - mean
        count = self.count + len(features)
        shift = mean - self.mean_D
        self._products_DD += centred.T @ centred
        self._products_DD += np.outer(shift, shift) * (self.count * len(features) / count)
        self.mean_D = self.mean_D + shift * (len(features) / count)
        self.count = count


def statistics_of(features_ND: ArrayLike) -> FeatureStatistics:
    """Statistics of one batch (N, D). Raises ValueError as `FeatureStatistics.add`."""
    features = np.asarray(features_ND, np.float64)
    if features.ndim != 2:
        raise ValueError(f"expected features (N, D), got {features.shape}")
    statistics = FeatureStatistics(features.shape[1])
    statistics.add(features)
    return statistics


@dataclass(frozen=True)
class FrechetDistance:
    """The squared distance, as FID is stated, with what a reader must know.

    Attributes:
        value: 0 or more.
        counts: feature rows on both sides.
        warning: why the value must not be compared with others, or "".
    """

    value: float
    counts: tuple[int, int]
    warning: str = ""


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> FrechetDistance:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of the product of both symmetric roots. Unlike the
    general root of C1 C2 it exists for every covariance, is real, and needs no offset on the diagonal.

    Raises:
        ValueError: other dimensions on both sides, or fewer than two rows.
    """
    if first.dimensions != second.dimensions:
        raise ValueError(f"features of {first.dimensions} and {second.dimensions} numbers have no distance")
    shift = first.mean_D - second.mean_D
    covariances = (first.covariance_DD, second.covariance_DD)
    roots = [_root(covariance) for covariance in covariances]
    cross = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    total = float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)
    # rounding may leave a distance of nothing slightly below nothing
    return FrechetDistance(max(total, 0.0), (first.count, second.count), _warning(first, second))


def _root(covariance_DD: Numbers) -> Numbers:
    """R (D, r) with R R^T the covariance, r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance_DD)
    kept = values > values[-1] * np.finfo(np.float64).eps * len(values) if values[-1] > 0 else values > 0
    return vectors[:, kept] * np.sqrt(values[kept])


def _warning(first: FeatureStatistics, second: FeatureStatistics) -> str:
    fewest = min(first.count, second.count)
    if fewest > first.dimensions:
        return ""
    return (
        f"{fewest} pictures for {first.dimensions} dimensions: the covariance has no full rank and the "
        f"distance is biased upwards; compare it only with one of as many pictures"
    )
