from __future__ import annotations

import numpy as np
import pytest
import torch

from models.metrics import (
    background_error,
    light_error,
    masked_psnr,
    psnr,
    render_retrieval_rank1,
    swap_progress,
)
from models.metrics.exact import PEAK_PSNR
from models.worlds import render, sample_attributes, sample_identities

FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)


def flat(value: int, count: int = 1, size: int = 8) -> np.ndarray:
    return np.full((count, size, size, 3), value, np.uint8)


def test_psnr_of_known_errors() -> None:
    # 20 log10(255 / 10) and 20 log10(255 / 1), worked out by hand.
    np.testing.assert_allclose(psnr(flat(100), flat(110)), [28.1308], atol=1e-4)
    np.testing.assert_allclose(psnr(flat(100), flat(101)), [48.1308], atol=1e-4)
    assert psnr(flat(7), flat(7))[0] == PEAK_PSNR
    noisy = np.clip(0.5 + np.random.default_rng(0).normal(0, 0.05, (1, 128, 128, 3)), 0, 1)
    assert psnr(noisy, np.full_like(noisy, 0.5))[0] == pytest.approx(-20 * np.log10(0.05), abs=0.1)


def test_uint8_float_and_tensor_are_the_same_image() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    expected = psnr(first, second)
    np.testing.assert_allclose(psnr(first / 255.0, second), expected)
    np.testing.assert_allclose(psnr(torch.from_numpy(first), torch.from_numpy(second)), expected)
    assert expected.shape == (3,)


def test_masked_psnr_sees_the_mask_only() -> None:
    image, truth = flat(100), flat(100)
    image[0, :4] = 110
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :4] = True
    np.testing.assert_allclose(masked_psnr(image, truth, mask), [28.1308], atol=1e-4)
    assert masked_psnr(image, truth, ~mask)[0] == PEAK_PSNR
    # Half of the pixels carry the error: 3.01 dB better over the whole picture.
    np.testing.assert_allclose(psnr(image, truth), [28.1308 + 3.0103], atol=1e-4)
    with pytest.raises(ValueError, match="row 0 has no pixel inside"):
        masked_psnr(image, truth, np.zeros((1, 8, 8), bool))
    with pytest.raises(ValueError, match="boolean"):
        masked_psnr(image, truth, mask.astype(np.uint8))


def test_swap_progress_between_copy_and_truth() -> None:
    target, truth = flat(50, 4), flat(150, 4)
    output = np.stack([flat(value)[0] for value in (50, 150, 75, 200)])
    np.testing.assert_allclose(swap_progress(output, target, truth), [0.0, 1.0, 0.25, 1.5])
    # An error at right angles to the way leaves it unseen.
    truth = np.zeros((1, 1, 2, 3), np.uint8)
    truth[0, 0, 0] = 100
    sideways = np.zeros((1, 1, 2, 3), np.uint8)
    sideways[0, 0, 1] = 100
    assert swap_progress(sideways, np.zeros_like(truth), truth)[0] == 0.0
    assert np.isnan(swap_progress(truth, truth, truth)[0])


def test_light_error_ignores_detail_and_sees_shade() -> None:
    checks = np.zeros((1, 32, 32, 3), np.uint8)
    checks[0, ::2, ::2] = 200
    checks[0, 1::2, 1::2] = 200
    assert light_error(checks, flat(100, size=32))[0] == pytest.approx(0.0, abs=1e-9)
    assert light_error(flat(100, size=32), flat(112, size=32))[0] == pytest.approx(12.0)
    left = flat(100, size=32)
    left[0, :, :16] = 140
    assert light_error(left, flat(100, size=32))[0] == pytest.approx(20.0)
    with pytest.raises(ValueError, match=r"cells must lie in \[1, 32\]"):
        light_error(checks, checks, cells=33)


def test_background_error_is_outside_the_face() -> None:
    image, truth = flat(10), flat(10)
    face = np.zeros((1, 8, 8), bool)
    face[0, 2:6, 2:6] = True
    image[0, face[0]] = 255
    assert background_error(image, truth, face)[0] == 0.0
    image[0, 0, 0] = 58
    assert background_error(image, truth, face)[0] == pytest.approx(48 / 48)
    with pytest.raises(ValueError, match="outside its face mask"):
        background_error(image, truth, np.ones((1, 8, 8), bool))


def test_retrieval_finds_the_truth_and_no_tie_helps() -> None:
    candidates = np.stack([[np.full((8, 8, 3), value) for value in (0.0, 0.5, 1.0)]] * 4)
    output = np.stack([np.full((8, 8, 3), value) for value in (0.375, 0.375, 0.875, 0.75)])
    found = render_retrieval_rank1(output, candidates, [1, 0, 2, 2])
    assert found.tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match=r"4 numbers in \[0, 2\]"):
        render_retrieval_rank1(output, candidates, [1, 0, 2, 3])


def test_metrics_tell_a_copy_from_a_swap_in_the_world() -> None:
    """The trap that the metrics are made for: a copy of the target has a good PSNR and no progress."""
    count, choices = 6, 5
    people, photographs = sample_identities(2, 2 * count), sample_attributes(2, count)
    sources, targets = np.arange(count), np.arange(count, 2 * count)
    target_faces = render(people[targets], photographs, 64)
    truth, target = render(people[sources], photographs, 64).images_NHWC, target_faces.images_NHWC
    face = np.isin(target_faces.parsing_NHW, FACE_CLASSES)
    assert psnr(target, truth).mean() > 18
    assert masked_psnr(target, truth, face).mean() < psnr(target, truth).mean()
    np.testing.assert_allclose(swap_progress(target, target, truth), 0.0)
    np.testing.assert_allclose(swap_progress(truth, target, truth), 1.0)
    middle = (truth.astype(float) + target) / 510.0
    np.testing.assert_allclose(swap_progress(middle, target, truth), 0.5)
    assert (background_error(target, truth, face) < 12).all()
    candidates = np.stack(
        [
            render(people[(sources + step) % (2 * count)], photographs, 64).images_NHWC
            for step in range(choices - 1)
        ]
        + [target],
        axis=1,
    )
    own = np.zeros(count, np.int64)
    assert render_retrieval_rank1(truth, candidates, own).all()
    assert not render_retrieval_rank1(target, candidates, own).any()


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"\(N, H, W, C\)"),
        (np.zeros((1, 8, 8, 3), np.int64), "uint8 or floating point"),
        (np.full((1, 8, 8, 3), 2.0), r"\[0, 1\]"),
        (np.full((1, 8, 8, 3), np.nan), "finite"),
        (np.zeros((1, 9, 8, 3), np.uint8), "agree in shape"),
    ],
)
def test_images_of_another_kind_are_refused(image: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        psnr(image, flat(0))
