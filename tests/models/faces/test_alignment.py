"""Similarity transforms: fits, inverses, templates, and warps that land where the matrix says."""

import cv2
import numpy as np
import pytest

from models.faces.alignment import (
    DLIB_CHIP_SIZE,
    align_to_dlib,
    align_to_ffhq,
    five_points,
    invert,
    transform_points,
    umeyama,
    warp,
)
from models.faces.landmarks import landmarks_68_from_mesh


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    return np.concatenate([turn, np.array(shift)[:, None]], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def landmarks(fits) -> np.ndarray:
    return landmarks_68_from_mesh(fits["astronaut"].points_478x3)[:, :2]


@pytest.mark.parametrize("degrees", [0, 31, -170])
@pytest.mark.parametrize("scale", [0.05, 1.0, 7.0])
def test_umeyama_recovers_an_exact_similarity(scale: float, degrees: float) -> None:
    source = np.random.default_rng(3).uniform(0, 600, (5, 2)).astype(np.float32)
    truth = similarity(scale, degrees, (40, -9))
    np.testing.assert_allclose(
        umeyama(source, transform_points(source, truth)), truth, atol=2e-3 * max(scale, 1)
    )


def test_umeyama_is_the_least_squares_similarity() -> None:
    """Against the linear problem in (a, b, tx, ty), solved by numpy."""
    rng = np.random.default_rng(4)
    source, target = rng.uniform(0, 99, (2, 7, 2)).astype(np.float32)
    rows = []
    for x, y in source:
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows, np.float64), target.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(umeyama(source, target), [[a, -b, tx], [b, a, ty]], rtol=1e-4, atol=1e-4)


def test_umeyama_never_mirrors() -> None:
    source = np.random.default_rng(5).uniform(0, 99, (6, 2)).astype(np.float32)
    matrix = umeyama(source, source * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("size", [32, 512])
def test_the_inverse_brings_points_back_to_a_hundredth_of_a_pixel(landmarks, size: int) -> None:
    matrix = align_to_ffhq(landmarks, size)
    assert (matrix.dtype, matrix.shape) == (np.float32, (2, 3))
    grid = (
        np.stack(np.meshgrid(np.linspace(0, 4000, 9), np.linspace(0, 4000, 9)), -1)
        .reshape(-1, 2)
        .astype(np.float32)
    )
    back = transform_points(transform_points(grid, matrix), invert(matrix))
    assert np.abs(back - grid).max() < 0.01


def test_ffhq_frame_is_upright_and_centred(landmarks) -> None:
    framed = transform_points(landmarks, align_to_ffhq(landmarks))
    eyes = np.stack([framed[36:42].mean(0), framed[42:48].mean(0)])
    mouth = framed[[48, 54]].mean(0)
    middle = eyes.mean(0)
    assert abs(np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1]))) < 3
    assert middle[1] < 256 < mouth[1]
    np.testing.assert_allclose(middle + 0.1 * (mouth - middle), [256, 256], atol=0.01)
    # The half side is the larger of two eye distances and 1.8 eye-to-mouth distances.
    reach = max(2.0 * np.linalg.norm(eyes[1] - eyes[0]), 1.8 * np.linalg.norm(mouth - middle))
    assert reach == pytest.approx(256, rel=1e-4)


def test_ffhq_frame_does_not_depend_on_how_the_photo_is_held(landmarks) -> None:
    frame = transform_points(landmarks, align_to_ffhq(landmarks))
    for turned in (similarity(0.4, 65, (800, 30)), similarity(3.0, -140, (0, 900))):
        moved = transform_points(landmarks, turned)
        np.testing.assert_allclose(transform_points(moved, align_to_ffhq(moved)), frame, atol=0.02)


def test_dlib_chip_holds_the_face(fits) -> None:
    for fit in fits.values():
        points = five_points(fit.points_478x3)
        chip = transform_points(points, align_to_dlib(points))
        assert chip.shape == (5, 2)
        assert (
            chip[0, 0] > chip[1, 0] > chip[4, 0] > chip[3, 0] > chip[2, 0]
        )  # subject's left is on the right
        assert (chip[4, 1] > chip[:4, 1]).all()
        assert ((chip > 20) & (chip < DLIB_CHIP_SIZE - 20)).all()


def test_warp_with_the_identity_is_a_copy(photos) -> None:
    image = photos["astronaut"]
    np.testing.assert_array_equal(warp(image, similarity(1, 0, (0, 0)), 512), image)


def test_warp_by_whole_pixels_moves_pixels_and_repeats_the_border(photos) -> None:
    image = photos["astronaut"]
    moved = warp(image, similarity(1, 0, (7, -3)), 512)
    np.testing.assert_array_equal(moved[:509, 7:], image[3:, :505])
    np.testing.assert_array_equal(moved[:509, :7], image[3:, :1].repeat(7, axis=1))


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 2.7])
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_spot_lands_where_its_point_does(scale: float, degrees: float) -> None:
    columns, rows = np.meshgrid(np.arange(300) + 0.5, np.arange(200) + 0.5)
    spot = np.array([170.3, 90.8])
    blob = 255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / (2 * 12.0**2))
    image = np.repeat(np.round(blob).astype(np.uint8)[:, :, None], 3, axis=2)
    matrix = similarity(scale, degrees, (30, 8))
    wanted = transform_points(spot[None], matrix)[0]
    matrix[:, 2] += 128 - wanted + (0.4, -0.3)
    wanted = transform_points(spot[None], matrix)[0]
    frame = warp(image, matrix, 256)[:, :, 0].astype(np.float64)
    y, x = np.mgrid[:256, :256] + 0.5
    centre = np.array([(frame * x).sum(), (frame * y).sum()]) / frame.sum()
    np.testing.assert_allclose(centre, wanted, atol=0.08)


def test_reduction_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = warp(stripes, similarity(1 / 8, 0, (0, 0)), 64)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() <= 3


def test_alignment_and_back_keeps_the_photo(photos, landmarks) -> None:
    """There at twice the resolution and back; only two interpolations are lost."""
    image = photos["astronaut"]
    matrix = align_to_ffhq(landmarks, 1024)
    back = warp(warp(image, matrix, 1024), invert(matrix), 512)
    x0, y0 = np.ceil(landmarks.min(axis=0)).astype(int)
    x1, y1 = np.floor(landmarks.max(axis=0)).astype(int)
    assert cv2.PSNR(back[y0:y1, x0:x1], image[y0:y1, x0:x1]) > 30


def test_impossible_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        umeyama(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="one place"):
        umeyama(np.ones((4, 2), np.float32), np.eye(4, 2, dtype=np.float32))
    with pytest.raises(ValueError, match="target_N2 must have shape"):
        umeyama(np.ones((4, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="no orientation"):
        align_to_ffhq(np.ones((68, 2), np.float32))
    with pytest.raises(ValueError, match="no inverse"):
        invert(np.ones((2, 3), np.float32))
