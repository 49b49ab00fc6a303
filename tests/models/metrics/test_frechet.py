"""The Frechet distance against SciPy's matrix root and closed forms; streaming; the warning."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from models.metrics.frechet import FeatureStatistics, frechet_distance, statistics_of


def features(seed: int, rows: int, dimensions: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(rows, dimensions)) @ generator.normal(size=(dimensions, dimensions))
    return mixed * scale + shift + generator.normal(size=dimensions)


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    """The definition with a general matrix root, from the features themselves."""
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = sqrtm(covariances[0] @ covariances[1])
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


@pytest.mark.parametrize(("rows", "dimensions"), [(400, 12), (900, 40)])
def test_it_is_the_definition_by_another_matrix_root(rows: int, dimensions: int) -> None:
    first, second = features(1, rows, dimensions), features(2, rows + 7, dimensions, scale=1.3, shift=0.4)
    found = frechet_distance(statistics_of(first), statistics_of(second))
    assert found.value == pytest.approx(by_scipy(first, second), rel=1e-9)
    assert found.counts == (rows, rows + 7)
    assert found.warning == ""


def test_closed_forms() -> None:
    rows = features(3, 300, 6)
    own = frechet_distance(statistics_of(rows), statistics_of(rows[::-1]))
    assert own.value == pytest.approx(0, abs=1e-9)
    moved = frechet_distance(statistics_of(rows), statistics_of(rows + np.arange(6.0)))
    assert moved.value == pytest.approx(55, rel=1e-9)
    # twice as wide about the same mean: tr(C + 4 C - 2 * 2 C) = tr C
    wider = rows.mean(axis=0) + 2 * (rows - rows.mean(axis=0))
    stretched = frechet_distance(statistics_of(rows), statistics_of(wider))
    assert stretched.value == pytest.approx(np.trace(np.cov(rows, rowvar=False)), rel=1e-9)


def test_batches_make_no_difference_even_far_from_zero() -> None:
    rows = features(4, 257, 5, shift=1e6)
    streamed = FeatureStatistics(5)
    for part in np.split(rows, [0, 1, 17, 200]):
        streamed.add(part)
    assert streamed.count == 257
    assert streamed.mean_D == pytest.approx(rows.mean(axis=0), rel=1e-14)
    assert streamed.covariance_DD == pytest.approx(np.cov(rows, rowvar=False), rel=1e-8)


def test_too_few_pictures_are_told_and_still_right() -> None:
    first, second = features(5, 8, 20), features(6, 9, 20)
    found = frechet_distance(statistics_of(first), statistics_of(second))
    assert "8 pictures for 20 dimensions" in found.warning
    # without full rank: the sum of roots of the eigenvalues of the small Gram matrix, not of a 20 x 20 root
    a, b = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = first.mean(axis=0) - second.mean(axis=0)
    wanted = shift @ shift + (a**2).sum() + (b**2).sum() - 2 * cross
    assert found.value == pytest.approx(wanted, rel=1e-9)


def test_constant_features_have_a_distance() -> None:
    still = statistics_of(np.full((3, 4), 2.0))
    assert frechet_distance(still, statistics_of(np.full((5, 4), 3.0))).value == pytest.approx(4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="row 1 holds a value that is not finite"):
        statistics_of([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match=r"expected features \(N, 2\)"):
        FeatureStatistics(2).add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="needs two feature rows, there are 1"):
        frechet_distance(statistics_of(np.zeros((1, 2))), statistics_of(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="2 and 3 numbers"):
        frechet_distance(statistics_of(np.zeros((2, 2))), statistics_of(np.zeros((2, 3))))
