"""The soft mask's table, and what is kept of the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.diffface.blending import (
    blend,
    blend_level,
    blends,
    composite,
    face_mask,
    mask_strength,
    parsed_alpha,
    to_pixels,
)
from models.diffface.compat import CompatConfig
from models.diffface.settings import DiffFaceSettings

TABLE = {
    74: 0.0,
    70: 0.089,
    60: 0.311,
    50: 0.533,
    45: 0.644,
    40: 0.756,
    31: 0.956,
    30: 0.978,
    29: 1.0,
    0: 1.0,
}
"""Of the published program with its defaults: 100 steps, 25 skipped, threshold 30."""


@pytest.mark.parametrize("compat", [CompatConfig(), CompatConfig(literal_75=True)])
def test_the_published_table(compat: CompatConfig) -> None:
    settings = DiffFaceSettings(device="cpu", compat=compat)
    for index, expected in TABLE.items():
        assert mask_strength(index, settings) == pytest.approx(expected, abs=5e-4)
    assert all(mask_strength(index, settings) == 1.0 for index in range(30))


def test_a_larger_threshold_frees_the_face_earlier() -> None:
    early, late = (DiffFaceSettings(masking_threshold=threshold) for threshold in (60, 30))
    strengths = [(mask_strength(index, early), mask_strength(index, late)) for index in range(74)]
    assert all(first >= second for first, second in strengths)
    assert mask_strength(60, early) == pytest.approx(14 / 15)
    assert mask_strength(60, late) == pytest.approx(14 / 45)


def test_the_ramp_counts_the_steps_that_are_taken() -> None:
    settings = DiffFaceSettings(timestep_respacing="50", skip_timesteps=10, masking_threshold=20)
    assert mask_strength(39, settings) == 0.0
    assert mask_strength(29, settings) == pytest.approx(10 / 20)
    assert mask_strength(19, settings) == 1.0
    faulty = settings.model_copy(update={"compat": CompatConfig(literal_75=True)})
    assert mask_strength(39, faulty) == pytest.approx(35 / 55)
    with pytest.raises(ValueError, match="not among the 40"):
        mask_strength(40, settings)


def test_a_threshold_without_a_ramp_is_an_error() -> None:
    for values, start in (
        ({"masking_threshold": 75}, "below 75"),
        ({"timestep_respacing": "50", "skip_timesteps": 25}, "below 25"),
        ({"masking_threshold": 75, "compat": {"literal_75": True}}, "published program"),
    ):
        with pytest.raises(ValidationError, match=start):
            DiffFaceSettings.model_validate(values)
    # the literal 75 accepts what the steps taken would not
    DiffFaceSettings(timestep_respacing="50", compat=CompatConfig(literal_75=True))


def test_when_and_at_which_noise_the_target_is_blended_in() -> None:
    default = DiffFaceSettings()
    free = DiffFaceSettings(no_enforce_background=True)
    ddim = DiffFaceSettings(ddim=True)
    assert all(blends(index, default) and blends(index, ddim) for index in range(75))
    assert [index for index in range(75) if blends(index, free)] == list(range(31, 75))
    faulty = DiffFaceSettings(ddim=True, compat=CompatConfig(ddim_unblended=True))
    assert not any(blends(index, faulty) for index in range(75))
    assert blend_level(7, default) == 6
    assert blend_level(7, DiffFaceSettings(compat=CompatConfig(reblend_at_t=True))) == 7


def test_blending_is_a_weighted_sum() -> None:
    settings = DiffFaceSettings()
    x, target = torch.full((1, 3, 2, 2), 4.0), torch.full((1, 3, 2, 2), -2.0)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    mixed = blend(x, target, mask, 50, settings)
    share = 24 / 45
    torch.testing.assert_close(mixed[0, 0, 0, 0], torch.tensor(4.0 * share - 2.0 * (1 - share)))
    assert (mixed[0, :, 0, 1] == -2.0).all()


def test_glasses_belong_to_the_face_unless_the_fault_is_wanted() -> None:
    codes = np.arange(19, dtype=np.uint8).reshape(1, 1, 19)
    nine = {1, 2, 3, 4, 5, 10, 11, 12, 13}
    assert set(np.flatnonzero(face_mask(codes, CompatConfig()))) == nine | {6}
    assert set(np.flatnonzero(face_mask(codes, CompatConfig(glasses_outside_mask=True)))) == nine


def test_opacity_by_the_pictures_own_parse() -> None:
    codes = torch.zeros(1, 32, 32, dtype=torch.uint8)
    codes[0, 8:24, 8:24] = 1
    codes[0, 12:14, 12:20] = 2
    hard = parsed_alpha(codes, DiffFaceSettings(feather=0))
    assert torch.equal(hard[0, 0].bool(), codes[0] > 0)
    soft = parsed_alpha(codes, DiffFaceSettings(feather=1 / 16))
    assert soft.shape == hard.shape
    assert 0.3 < float(soft[0, 0, 8, 16]) < 0.9
    assert float(soft[0, 0, 16, 16]) > 0.99
    assert float(soft[0, 0, 0, 0]) == 0.0
    faulty = parsed_alpha(codes, DiffFaceSettings(compat=CompatConfig(colour_map_alpha=True)))
    assert float(faulty[0, 0, 9, 9]) == 1.0
    assert float(faulty[0, 0, 12, 12]) == 0.0  # brows of the published map are not red


def test_pixels_round_and_the_target_stays_where_nothing_covers_it() -> None:
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5, 1 / 127.5 - 1]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_pixels(x)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 1]
    rng = np.random.default_rng(0)
    swapped, target = rng.integers(0, 256, (2, 1, 4, 4, 3), dtype=np.uint8)
    alpha = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4)
    mixed = composite(swapped, target, alpha)
    assert np.array_equal(mixed[0, 0, 0], target[0, 0, 0])
    assert np.array_equal(mixed[0, 3, 3], swapped[0, 3, 3])
    expected = np.rint(swapped * alpha[..., None] + target * (1 - alpha[..., None]))
    assert np.abs(mixed.astype(int) - expected).max() <= 1
