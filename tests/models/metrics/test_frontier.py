"""Frontiers: methods compared at equal identity, on curves whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.metrics.frontier import Frontier, compare_at_matched_identity, resampled_weights, shared_range

SCALES = np.array([1.0, 2.0, 4.0])


def frontier(
    identity: list[float], error: list[float], pairs: int = 200, noise: float = 0.0, seed: int = 0
) -> Frontier:
    """Curves with the given means; `noise` scatters pairs, and averages to nothing over all of them."""
    scatter = np.random.default_rng(seed).standard_normal((2, pairs))
    scatter -= scatter.mean(axis=1, keepdims=True)
    return Frontier(
        SCALES[: len(identity)],
        np.array(identity)[:, None] + noise * scatter[0],
        {"light": np.array(error)[:, None] + noise * scatter[1]},
    )


def test_two_methods_on_one_curve_are_equal_where_their_table_rows_differ() -> None:
    methods = {
        "timid": frontier([0.1, 0.3, 0.5], [1.0, 3.0, 5.0]),
        "bold": frontier([0.3, 0.4, 0.7], [3.0, 4.0, 7.0]),
    }
    found = compare_at_matched_identity(methods, "timid", seed=0, resamples=50)
    assert found["bold"] is not None
    assert found["bold"].level == pytest.approx(0.4)
    assert found["bold"].scale == pytest.approx(2.0)
    assert found["timid"] is not None
    assert found["timid"].scale == pytest.approx(3.0)  # halfway between the scales 2 and 4
    assert found["bold"].errors["light"].value == pytest.approx(4.0)
    assert found["bold"].differences["light"].value == pytest.approx(0.0, abs=1e-9)


def test_an_interval_holds_a_known_difference_and_narrows_with_more_pairs() -> None:
    def width(pairs: int) -> float:
        methods = {
            "plain": frontier([0.0, 0.5, 1.0], [2.0, 4.0, 6.0], pairs, 0.5, seed=1),
            "kind": frontier([0.0, 0.5, 1.0], [1.0, 3.0, 5.0], pairs, 0.5, seed=2),
        }
        found = compare_at_matched_identity(methods, "plain", seed=3, resamples=400)["kind"]
        assert found is not None
        difference = found.differences["light"]
        assert difference.value == pytest.approx(-1.0)
        assert difference.low < -1.0 < difference.high < 0.0
        assert found.reached == 1.0
        return difference.high - difference.low

    assert width(1600) < 0.7 * width(400)


def test_pairs_are_drawn_together_so_that_shared_scatter_cancels() -> None:
    base = frontier([0.0, 0.5, 1.0], [2.0, 4.0, 6.0], 100, 2.0)
    shifted = Frontier(base.scales_K, base.identity_KN, {"light": base.errors["light"] - 0.1})
    found = compare_at_matched_identity({"a": base, "b": shifted}, "a", seed=0)["b"]
    assert found is not None
    assert found.differences["light"].low == pytest.approx(-0.1)
    assert found.differences["light"].high == pytest.approx(-0.1)
    assert found.errors["light"].high - found.errors["light"].low > 0.3


def test_without_a_level_of_all_each_meets_the_reference_at_one_of_their_own_or_not_at_all() -> None:
    methods = {
        "reference": frontier([0.2, 0.4, 0.6], [1.0, 2.0, 3.0]),
        "lower": frontier([0.0, 0.1, 0.3], [1.0, 1.0, 5.0]),
        "higher": frontier([0.5, 0.7, 0.9], [1.0, 2.0, 3.0]),
        "beyond": frontier([0.7, 0.8, 0.9], [0.0, 0.0, 0.0]),
    }
    assert shared_range(methods) is None
    found = compare_at_matched_identity(methods, "reference", seed=0, resamples=20)
    assert found["beyond"] is None
    assert found["lower"] is not None
    assert found["lower"].level == pytest.approx(0.25)
    assert found["lower"].errors["light"].value == pytest.approx(4.0)
    assert found["higher"] is not None
    assert found["higher"].level == pytest.approx(0.55)
    flat = compare_at_matched_identity({**methods, "flat": frontier([0.3] * 3, [0.0] * 3)}, "flat", seed=0)
    assert set(flat.values()) == {None}  # guidance that changes nothing is no trade
    at_the_edge = compare_at_matched_identity(methods, "reference", seed=0, level=0.6, resamples=20)
    assert at_the_edge["lower"] is None


def test_a_curve_that_turns_back_counts_with_its_least_guidance() -> None:
    method = frontier([0.0, 0.6, 0.2], [0.0, 6.0, 60.0])
    found = compare_at_matched_identity({"m": method}, "m", seed=0, level=0.3, resamples=5)["m"]
    assert found is not None
    assert found.scale == pytest.approx(1.5)
    assert found.errors["light"].value == pytest.approx(3.0)


def test_pairs_without_an_attribute_take_no_part_and_a_level_at_the_edge_has_no_interval() -> None:
    plain = frontier([0.0, 0.5, 1.0], [1.0, 2.0, 3.0], pairs=40, noise=0.05)
    glasses = plain.errors["light"].copy()
    glasses[:, 10:] = np.nan
    method = Frontier(plain.scales_K, plain.identity_KN, {"glasses": glasses})
    found = compare_at_matched_identity({"m": method}, "m", seed=0, level=0.5)["m"]
    assert found is not None
    assert found.errors["glasses"].value == pytest.approx(np.nanmean(glasses[1]))
    assert np.isfinite(found.errors["glasses"].low)
    glasses[:, 4:] = np.nan
    found = compare_at_matched_identity({"m": method}, "m", seed=0, level=0.5)["m"]
    assert found is not None
    assert np.isnan(found.errors["glasses"].low)  # four pairs are no sample
    edge = compare_at_matched_identity({"m": method}, "m", seed=0, level=1.0 + 1e-4)["m"]
    assert edge is None
    barely = compare_at_matched_identity({"m": method}, "m", seed=0, level=0.9999)["m"]
    assert barely is not None
    assert 0.4 < barely.reached < 0.6


def test_what_does_not_fit_is_refused() -> None:
    good = frontier([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="must rise"):
        Frontier(SCALES[::-1], good.identity_KN, good.errors)
    with pytest.raises(ValueError, match="light must have the shape of identity"):
        Frontier(SCALES[:2], good.identity_KN[:2], good.errors)
    with pytest.raises(ValueError, match="identity must be finite"):
        Frontier(SCALES, good.identity_KN * np.nan, good.errors)
    with pytest.raises(ValueError, match="no frontier of teacher"):
        compare_at_matched_identity({"m": good}, "teacher", seed=0)
    few = frontier([0.0, 0.5, 1.0], [1.0, 2.0, 3.0], pairs=3)
    with pytest.raises(ValueError, match=r"the same pairs, got \[3, 200\]"):
        compare_at_matched_identity({"m": good, "few": few}, "m", seed=0)


def test_runs_that_differ_widen_the_interval_though_there_are_as_many_columns() -> None:
    steady = frontier([0.0, 0.5, 1.0], [2.0, 4.0, 6.0], 300, 0.5, seed=1)
    offsets = np.repeat([-0.5, 0.0, 0.5], 100)
    moved = Frontier(steady.scales_K, steady.identity_KN, {"light": steady.errors["light"] + offsets})

    def width(runs: int) -> float:
        methods = {"steady": steady, "moved": moved}
        found = compare_at_matched_identity(methods, "steady", seed=0, resamples=400, runs=runs)["moved"]
        assert found is not None
        difference = found.differences["light"]
        assert difference.value == pytest.approx(0.0, abs=1e-9)
        return difference.high - difference.low

    assert width(3) > 3 * width(1)


def test_drawn_runs_share_their_pairs() -> None:
    weights = resampled_weights(6, seed=0, resamples=200, runs=2).reshape(201, 2, 3)
    assert np.allclose(weights.sum(axis=(1, 2)), 1.0)
    both = weights[(weights.sum(axis=2) > 0).all(axis=1)]
    assert len(both) > 50
    assert np.allclose(both[:, 0], both[:, 1])
    with pytest.raises(ValueError, match="5 columns"):
        resampled_weights(5, seed=0, runs=2)
