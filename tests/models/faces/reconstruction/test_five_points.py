"""The crop around five points: the original's arithmetic, its inverse, and its pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.faces.alignment import transform_points
from models.faces.reconstruction.five_points import (
    STANDARD_FIVE_POINTS,
    align_five_points,
    five_points_of_68,
)

FRONTAL = np.array([[200, 210], [262, 208], [232, 246], [206, 280], [258, 279]], np.float32)


def original(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The published recipe step by step: 8 unknowns in 10 equations, then whole pixels."""
    height, width = size
    equations, right = np.zeros((10, 8)), np.zeros(10)
    for row, ((x, y), corner) in enumerate(zip(points, STANDARD_FIVE_POINTS, strict=True)):
        equations[2 * row, :4] = (*corner, 1)
        equations[2 * row + 1, 4:] = (*corner, 1)
        right[2 * row : 2 * row + 2] = x, height - 1 - y
    k = np.linalg.lstsq(equations, right, rcond=None)[0]
    scale = 102 / ((np.sqrt((k[:3] ** 2).sum()) + np.sqrt((k[4:7] ** 2).sum())) / 2)
    w, h = np.array([width * scale, height * scale]).astype(np.int32)
    left = np.array(w / 2 - 112 + (k[3] - width / 2) * scale).astype(np.int32)
    up = np.array(h / 2 - 112 + (height / 2 - k[7]) * scale).astype(np.int32)
    return np.array([width, height, scale, k[3], k[7]]), (int(w), int(h), int(left), int(up))


@pytest.mark.parametrize(
    ("points", "size"),
    [
        (FRONTAL, (512, 480)),
        (FRONTAL * 3.7, (1900, 2000)),
        (FRONTAL * 0.2, (100, 96)),
        (FRONTAL - (180, 190), (512, 512)),  # leaves the photo at the left and at the top
        (FRONTAL @ np.array([[0.9, 0.3], [-0.3, 0.9]]) + (80, -60), (512, 512)),
    ],
)
def test_the_alignment_is_the_published_one(points: np.ndarray, size: tuple[int, int]) -> None:
    points = points.astype(np.float32)
    alignment = align_five_points(points, size)
    parameters, (width, height, left, top) = original(points, size)
    np.testing.assert_allclose(alignment.trans_params, parameters, rtol=1e-6)
    assert (alignment.resized, alignment.offset) == ((width, height), (left, top))


def test_a_standard_face_is_scaled_to_102_pixels_per_unit_and_centred() -> None:
    standard = np.array(STANDARD_FIVE_POINTS)
    upright = standard[:, :2] * 60 + (300, 280)
    photo = np.stack([upright[:, 0], 599 - upright[:, 1]], axis=1).astype(np.float32)
    alignment = align_five_points(photo, (600, 640))
    expected = np.stack([112 + 102 * standard[:, 0], 112 - 102 * standard[:, 1]], axis=1)
    np.testing.assert_allclose(alignment.to_crop(photo), expected, atol=1.8)  # whole pixels are cut off
    assert alignment.scale == pytest.approx(102 / 60, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.15, 12),
    st.floats(-1, 1),
    st.tuples(st.floats(50, 950), st.floats(50, 850)),
    st.integers(0, 10**6),
)
def test_there_and_back_is_the_identity(
    scale: float, angle: float, shift: tuple[float, float], seed: int
) -> None:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = ((FRONTAL - FRONTAL.mean(axis=0)) * scale @ turn + shift).astype(np.float32)
    alignment = align_five_points(points, (900, 1000))
    photo = np.random.default_rng(seed).uniform(-200, 1200, (50, 2))
    assert np.abs(alignment.to_photo(alignment.to_crop(photo)) - photo).max() < 0.01
    crop = np.random.default_rng(seed + 1).uniform(0, 224, (50, 2))
    assert np.abs(alignment.to_crop(alignment.to_photo(crop)) - crop).max() < 0.01
    mapped = transform_points(photo.astype(np.float32), alignment.matrix_2x3)
    assert np.abs(mapped - alignment.to_crop(photo)).max() < 0.01


@pytest.mark.parametrize("name", ["inside", "corner", "small photo", "enlarged"])
def test_the_crop_is_cut_from_the_whole_resized_photo(astronaut: np.ndarray, name: str) -> None:
    image, points = {
        "inside": (astronaut, FRONTAL - (0, 110)),
        "corner": (astronaut, FRONTAL - (180, 200)),
        "small photo": (astronaut[100:160, 190:260], FRONTAL * 0.25 + (-20, -20)),
        "enlarged": (astronaut, FRONTAL * 0.3 + (150, 60)),
    }[name]
    alignment = align_five_points(points.astype(np.float32), image.shape[:2])
    (_, _), (left, top) = alignment.resized, alignment.offset
    whole = Image.fromarray(np.ascontiguousarray(image)).resize(alignment.resized, Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    crop = alignment.crop(np.ascontiguousarray(image))
    assert (crop.shape, crop.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(crop.astype(int) - expected.astype(int)).max() <= 1
    assert crop.std() > 10


def test_a_tiny_face_in_a_large_photo_takes_little_memory() -> None:
    """Resized as a whole, this photo would be 72,000 pixels wide."""
    image = np.full((3000, 4000, 3), 90, np.uint8)
    image[1500:1506, 2000:2006] = 200
    points = (FRONTAL - FRONTAL.mean(axis=0)) * 0.055 + (2003, 1503)
    alignment = align_five_points(points.astype(np.float32), image.shape[:2])
    assert alignment.resized[0] > 70_000
    crop = alignment.crop(image)
    assert crop[112, 112, 0] == 200
    assert crop[5, 5, 0] == 90


def test_five_points_of_68_landmarks() -> None:
    landmarks = np.arange(136, dtype=np.float32).reshape(68, 2)
    expected = [[75, 76], [87, 88], [60, 61], [96, 97], [108, 109]]
    np.testing.assert_array_equal(five_points_of_68(landmarks), expected)


def test_impossible_points_are_refused(astronaut: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points_52 must have shape"):
        align_five_points(FRONTAL[:4], (512, 512))
    with pytest.raises(ValueError, match="NaN"):
        align_five_points(FRONTAL * np.float32(np.nan), (512, 512))
    with pytest.raises(ValueError, match="lie in one place"):
        align_five_points(np.full((5, 2), 30, np.float32), (512, 512))
    with pytest.raises(ValueError, match="crop nothing of the 512x400 photo"):
        align_five_points(FRONTAL + np.float32(3000), (400, 512))
    alignment = align_five_points(FRONTAL, (512, 512))
    with pytest.raises(ValueError, match="the photo is 512x300 pixels"):
        alignment.crop(astronaut[:300])
