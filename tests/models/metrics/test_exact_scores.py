"""Exact metrics on rendered swaps: what each of them sees, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.faces.mesh import FaceMesh
from models.metrics.exact import PEAK_PSNR
from models.metrics.exact_mesh import mesh_truth
from models.metrics.exact_scores import (
    HIGHER_IS_BETTER,
    ExactTruth,
    benchmark_truth,
    exact_scores,
    exact_truth,
    light_error,
    lip_error,
    makeup_error,
)
from models.worlds import render
from models.worlds.benchmark import BenchmarkPairs, benchmark_pairs, candidate_identities
from models.worlds.parameters import IDENTITY_NAMES, Identities
from resources.weights.resolve import resolve

PAIRS, SIZE = 6, 64
GLASSES_ROW, BARE_ROW = 0, 1


@pytest.fixture(scope="module")
def pairs() -> BenchmarkPairs:
    """Six pairs: in the first the target wears glasses and make-up, in the second neither."""
    drawn = benchmark_pairs(PAIRS, seed=77)
    worn = {"glasses": 2.0, "eye_shadow": 1.0, "blush": 1.0}
    values = {name: drawn.target_attributes.column(name).copy() for name in (*worn, "occluder", "blink")}
    for name, value in worn.items():
        values[name][[GLASSES_ROW, BARE_ROW]] = value, 0.0
    values["occluder"][:] = 0.0
    values["blink"][:] = 0.0
    return replace(drawn, target_attributes=drawn.target_attributes.replace(**values))


@pytest.fixture(scope="module")
def bench(pairs: BenchmarkPairs) -> ExactTruth:
    return benchmark_truth(pairs, SIZE)


def painted(bench: ExactTruth, region: str, levels: tuple[int, int, int]) -> np.ndarray:
    """The truth with the colour of one region changed."""
    weights = getattr(bench, f"{region}_NHW")[..., None] / 255.0
    return np.clip(bench.truth_NHWC + weights * np.array(levels), 0, 255).astype(np.uint8)


def test_the_truth_reaches_every_ceiling_and_a_copy_of_the_target_swaps_nobody(bench: ExactTruth) -> None:
    best, copied = exact_scores(bench.truth_NHWC, bench), exact_scores(bench.target_NHWC, bench)
    assert list(best) == list(copied)
    assert set(HIGHER_IS_BETTER) < set(best)
    for name, values in best.items():
        ceiling = {"face_psnr": PEAK_PSNR, "psnr": PEAK_PSNR, "rank_1_of_20": 1.0}.get(name, 0.0)
        assert values.shape == (PAIRS,)
        np.testing.assert_allclose(values[np.isfinite(values)], ceiling, atol=1e-9, err_msg=name)
    assert copied["leak"].all()
    assert not copied["rank_1_of_20"].any()
    assert (copied["face_psnr"] < copied["psnr"]).all(), "all that differs is the face, or close to it"
    assert copied["background_error"].mean() < 4 < copied["lip_error"].mean()
    as_float = exact_scores(bench.target_NHWC / 255.0, bench)
    np.testing.assert_allclose(as_float["face_psnr"], copied["face_psnr"])


@pytest.mark.parametrize(
    ("region", "metric"),
    [
        ("lips", "lip_error"),
        ("glasses", "glasses_error"),
        ("blush", "makeup_error"),
        ("eye_shadow", "makeup_error"),
    ],
)
def test_a_changed_colour_moves_its_own_metric_most(bench: ExactTruth, region: str, metric: str) -> None:
    scores = exact_scores(painted(bench, region, (48, -36, 0)), bench)
    moved = {name: values[GLASSES_ROW] for name, values in scores.items() if name.endswith("_error")}
    own = moved.pop(metric)
    assert own > 8
    assert all(value < own / 2 for value in moved.values()), moved
    assert scores["rank_1_of_20"].all(), "still the same person"


def test_a_changed_wall_is_background_and_a_darker_face_is_light(bench: ExactTruth) -> None:
    outside = np.where(bench.face_NHW[..., None] == 0, 255 - bench.truth_NHWC, bench.truth_NHWC)
    scores = exact_scores(outside, bench)
    assert (scores["background_error"] > 10).all()
    assert scores["face_psnr"].min() > 30
    assert scores["light_error"].max() < 3
    darker = exact_scores((bench.truth_NHWC * 0.8).astype(np.uint8), bench)
    assert (darker["light_error"] > 8).all()
    assert (darker["gaze_error"] < 1).all(), "gaze is a place, not a colour"


def test_gaze_sees_another_direction_and_hardly_another_iris(
    pairs: BenchmarkPairs, bench: ExactTruth
) -> None:
    gaze = pairs.target_attributes.column("gaze_x")
    averted = pairs.target_attributes.replace(gaze_x=np.where(gaze > 0, gaze - 1, gaze + 1))
    values = pairs.sources.values.copy()
    for name in ("iris_hue", "iris_lightness"):
        values[:, IDENTITY_NAMES.index(name)] *= -1
    looking_away = exact_scores(render(pairs.sources, averted, SIZE).images_NHWC, bench)["gaze_error"]
    recoloured = render(Identities(values), pairs.target_attributes, SIZE).images_NHWC
    assert np.nanmean(looking_away) > 3 * np.nanmean(exact_scores(recoloured, bench)["gaze_error"])


def test_what_a_photograph_does_not_show_is_not_measured(bench: ExactTruth) -> None:
    scores = exact_scores(bench.target_NHWC, bench)
    assert np.isfinite([scores["glasses_error"][GLASSES_ROW], scores["makeup_error"][GLASSES_ROW]]).all()
    assert np.isnan([scores["glasses_error"][BARE_ROW], scores["makeup_error"][BARE_ROW]]).all()


def test_retrieval_is_among_source_target_and_strangers(pairs: BenchmarkPairs, bench: ExactTruth) -> None:
    chosen = candidate_identities(pairs.sources, pairs.targets, 20, pairs.candidate_seed)
    np.testing.assert_array_equal(chosen[:, 0], pairs.sources.values)
    np.testing.assert_array_equal(chosen[:, 1], pairs.targets.values)
    assert len(np.unique(chosen.reshape(-1, chosen.shape[2]), axis=0)) == PAIRS * 20
    stranger = render(Identities(chosen[:, 7]), pairs.target_attributes, SIZE).images_NHWC
    assert not exact_scores(stranger, bench)["rank_1_of_20"].any()
    few = exact_truth(pairs.sources[:2], pairs.targets[:2], pairs.target_attributes[:2], 32, candidates=3)
    assert exact_scores(few.truth_NHWC, few)["rank_1_of_3"].tolist() == [1.0, 1.0]


def test_differences_worked_out_by_hand() -> None:
    truth = np.full((1, 16, 16, 3), 0.5)
    left = np.zeros((1, 16, 16), np.uint8)
    left[:, :, :8] = 255
    shifted = truth + np.where(left[..., None] > 0, np.array([30.0, -12.0, 0.0]) / 255.0, 0.0)
    np.testing.assert_allclose(lip_error(shifted, truth, left), [14.0])
    np.testing.assert_allclose(lip_error(shifted, truth, 255 - left), [0.0], atol=1e-9)
    np.testing.assert_allclose(makeup_error(shifted, truth, left, 255 - left), [7.0])
    np.testing.assert_allclose(makeup_error(shifted, truth, left, np.zeros_like(left)), [14.0])
    # A chequered difference cancels inside each cell of 2 by 2 pixels: no light has changed.
    chequered = truth + 0.1 * (np.indices((16, 16)).sum(axis=0) % 2 * 2 - 1)[None, ..., None]
    whole = np.full_like(left, 255)
    np.testing.assert_allclose(light_error(chequered, truth, whole), [0.0], atol=1e-9)
    np.testing.assert_allclose(light_error(shifted, truth, whole), [7.0])


def test_pose_and_expression_by_the_mesh(pairs: BenchmarkPairs, bench: ExactTruth) -> None:
    attributes = pairs.target_attributes[:2].replace(yaw=0.0, smile=0.0, mouth_open=0.0)
    few = exact_truth(pairs.sources[:2], pairs.targets[:2], attributes, SIZE, candidates=2)
    turned, gaping = (
        render(pairs.sources[:2], attributes.replace(**change), SIZE).images_NHWC
        for change in ({"yaw": 0.4}, {"mouth_open": 1.0})
    )
    with FaceMesh(resolve("face_landmarker").path) as mesh:
        meshes = mesh_truth(few, mesh)
        same, yawed, wide, nothing = (
            exact_scores(output, few, meshes)
            for output in (few.truth_NHWC / 255.0, turned, gaping, np.full_like(turned, 90))
        )
    assert max(same["pose_error"].max(), same["expression_error"].max()) < 1e-9
    assert yawed["pose_error"].min() > 10 > wide["pose_error"].max()
    assert wide["expression_error"].min() > 0.03
    assert np.isnan(nothing["pose_error"]).all()
    assert np.isnan(nothing["expression_error"]).all()


def test_pictures_that_cannot_be_compared_are_refused(pairs: BenchmarkPairs, bench: ExactTruth) -> None:
    with pytest.raises(ValueError, match="resize them first"):
        exact_scores(bench.truth_NHWC[:, ::2, ::2], bench)
    with pytest.raises(ValueError, match="pair 0 swaps a person"):
        exact_truth(pairs.sources, pairs.sources, pairs.target_attributes, SIZE)
    with pytest.raises(ValueError, match="at least 16 px"):
        exact_truth(pairs.sources, pairs.targets, pairs.target_attributes, 8)
