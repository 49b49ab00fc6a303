"""The arguments of the published program: their defaults, their errors, and the effect of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.diffface.panels import contact_sheet
from models.diffface.ranking import distance_digits, ranked, repeat_files
from models.diffface.settings import DiffFaceSettings
from models.diffface.swap_results import SwapResult
from resources.compute.device import DeviceUnavailable, choose_device

DEFAULTS = {
    "batch_size": 1,
    "skip_timesteps": 25,
    "ddim": False,
    "timestep_respacing": "100",
    "no_enforce_background": False,
    "aug_num": 8,
    "seed": 404,
    "gpu_id": 0,
    "output_path": "output",
    "output_file": "output.png",
    "iterations_num": 4,
    "masking_threshold": 30,
    "loss_weight": 6000,
}
"""Of the published program."""

PICTURES: dict[str, Any] = {
    "skip_timesteps": 5,
    "ddim": True,
    "timestep_respacing": "12",
    "no_enforce_background": True,
    "aug_num": 4,
    "seed": 405,
    "masking_threshold": 2,
    "loss_weight": 12_000,
    "expert_weights": {"parsing": 0, "gaze_window": (0, 3)},
    "gradient_limit": 0.1,
}
"""Arguments that change pictures, and another value of each."""


@pytest.fixture(scope="module")
def usual(small_diffface) -> SwapResult:
    return small_diffface.swap(small_diffface.settings())


def test_the_defaults_are_the_published_ones() -> None:
    settings = DiffFaceSettings()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert settings.steps == 100
    assert settings.sampled_steps == 75
    weights = settings.expert_weights
    assert (weights.parsing, weights.gaze, weights.pixel, weights.gaze_window) == (200, 200, 50, (10, 50))
    assert all(field.description for field in DiffFaceSettings.model_fields.values())


@pytest.mark.parametrize("name", PICTURES)
def test_each_argument_has_its_effect_on_the_picture(small_diffface, usual: SwapResult, name: str) -> None:
    changed = small_diffface.swap(small_diffface.settings(**{name: PICTURES[name]}))
    assert (changed.images_NHWC != usual.images_NHWC).any(axis=3).mean() > 0.02


def test_the_edge_is_feathered_where_the_background_is_free(small_diffface) -> None:
    hard, soft = (
        small_diffface.swap(small_diffface.settings(no_enforce_background=True, feather=feather)).images_NHWC
        for feather in (0, 0.1)
    )
    assert (hard != soft).any()


def test_batch_size_is_the_rows_of_one_pass(small_diffface) -> None:
    passes: list[int] = []
    hook = small_diffface.denoiser.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    try:
        small_diffface.swap(small_diffface.settings(batch_size=2), (0, 1, 2))
    finally:
        hook.remove()
    assert passes == [2] * 4 + [1] * 4


def test_iterations_num_is_the_number_of_repeats(small_diffface) -> None:
    assert small_diffface.swap(small_diffface.settings(iterations_num=2)).images_NRHWC.shape[1] == 2


def test_a_larger_loss_weight_comes_nearer_to_the_source(small_diffface) -> None:
    near, far = (
        small_diffface.swap(small_diffface.settings(loss_weight=weight, gradient_limit=1e6)).distances_N
        for weight in (60_000, 0)
    )
    assert near < far


def test_gpu_id_names_a_gpu_that_must_be_there(caplog: pytest.LogCaptureFixture) -> None:
    assert DiffFaceSettings(gpu_id=97).requested_device == "cuda:97"
    with pytest.raises(DeviceUnavailable, match="cuda:97"):
        choose_device(DiffFaceSettings(gpu_id=97).requested_device)
    with caplog.at_level("INFO"):
        assert choose_device(DiffFaceSettings(device="cpu", gpu_id=97).requested_device).device == "cpu"
    assert "the CPU was asked for" in caplog.text


def test_files_are_named_by_output_path_output_file_and_distance() -> None:
    settings = DiffFaceSettings(output_path="results/a", output_file="face.png")
    first, stopped, third = repeat_files(7, [0.18345, float("nan"), 1.25], settings)
    assert first is not None
    assert third is not None
    assert stopped is None
    assert str(first.picture) == "results/a/7_0.png"
    assert str(first.rank) == "results/a/Rank7/01834.png"
    assert str(first.figure) == "results/a/7/face_i_0_b_0.png"
    assert str(first.figure_at(54)) == "results/a/7/face_i_0_b_0_t_054.png"
    assert str(third.rank) == "results/a/Rank7/12500.png"


def test_ranks() -> None:
    assert ranked([0.3, float("nan"), 0.1, 0.3]).tolist() == [2, 0, 3, 1]
    assert [distance_digits(value) for value in (0.1834, 0.0, -1e-7, 2.0)] == [
        "01834",
        "00000",
        "00000",
        "20000",
    ]
    with pytest.raises(ValueError, match="0 to 2"):
        distance_digits(2.5)


def test_figures_show_six_panels_every_fifth_of_the_steps(small_diffface) -> None:
    result = small_diffface.swap(small_diffface.settings(), figures=True).repeats[0][0]
    assert [figure.index for figure in result.figures] == [3, 1, None]
    sheet = contact_sheet(result.figures)
    assert sheet.shape == (3 * 32, 6 * 32, 3)
    inputs = small_diffface.inputs
    panels = np.split(result.figures[-1].image_HWC, 6, axis=1)
    assert np.array_equal(panels[0], inputs.sources_NHWC[0])
    assert np.array_equal(panels[1], inputs.targets_NHWC[0])
    assert np.array_equal(panels[2] == 255, np.repeat(inputs.masks_NHW[0][..., None], 3, axis=2))
    assert np.array_equal(panels[5], result.image_HWC)
    assert (panels[3] != panels[4]).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skip_timesteps": 100}, "leaves none of the 100"),
        ({"timestep_respacing": "fast"}, "number of steps such as 100, ddim25"),
        ({"timestep_respacing": "0"}, "number of steps"),
        ({"timestep_respacing": "1001"}, "more than 1000"),
        ({"output_file": "output.jpg"}, "PNG"),
        ({"output_file": "a/output.png"}, "its folder is output_path"),
        ({"batch_size": 0}, "batch_size"),
        ({"aug_num": 0}, "aug_num"),
        ({"loss_weight": -1}, "loss_weight"),
        ({"loss_weight": float("nan")}, "loss_weight"),
        ({"seed": -1}, "seed"),
        ({"gradient_limit": 0}, "gradient_limit"),
        ({"expert_weights": {"gaze_window": (50, 10)}}, "gaze_window"),
        ({"iterations": 4}, "iterations"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DiffFaceSettings.model_validate(values)


def test_respacing_is_spelled_in_three_ways() -> None:
    assert DiffFaceSettings.model_validate({"timestep_respacing": 250}).timestep_respacing == "250"
    assert DiffFaceSettings(timestep_respacing="ddim50", skip_timesteps=5).sampled_steps == 45
    assert DiffFaceSettings(timestep_respacing="20, 30,50").steps == 100
