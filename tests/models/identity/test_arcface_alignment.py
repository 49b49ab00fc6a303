"""The two crops by five points, against insightface and against facexlib's recipe written out."""

import cv2
import numpy as np
import pytest
from insightface.utils.face_align import norm_crop

from models.faces.landmarks import landmarks_68_from_mesh
from models.identity.arcface_alignment import (
    align_to_arcface,
    arcface_chip,
    arcface_points_from_68,
    pulid_crop,
)

CENTERFACE = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32)
"""The astronaut's five points (measured with CenterFace)."""

FACEXLIB_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


def similarity(points: np.ndarray, scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (scale * points @ rotation.T + shift).astype(np.float32)


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
@pytest.mark.parametrize("turned", [0, 25, 160])
def test_chip_is_the_one_insightface_cuts(photos: dict[str, np.ndarray], turned: float) -> None:
    image = photos["astronaut"]
    points = similarity(CENTERFACE, 1.3, turned, (40, 60)) if turned else CENTERFACE
    expected = norm_crop(image, points - 0.5, 112)
    difference = np.abs(arcface_chip(image, points).astype(int) - expected)
    assert difference.max() <= 1  # one grey level where a product rounds the other way
    assert (difference > 0).mean() < 1e-3


def test_points_of_the_template_stay_where_they_are() -> None:
    template = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
        np.float32,
    )
    np.testing.assert_allclose(align_to_arcface(template + 0.5), [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    moved = similarity(template, 3.0, 30.0, (100, 20)) + np.float32(0.5)
    matrix = align_to_arcface(moved)
    np.testing.assert_allclose((moved - 0.5) @ matrix[:, :2].T + matrix[:, 2], template, atol=1e-3)


def test_pulid_crop_is_the_one_facexlib_cuts(photos: dict[str, np.ndarray]) -> None:
    image = photos["astronaut"]
    matrix = cv2.estimateAffinePartial2D(CENTERFACE - 0.5, FACEXLIB_TEMPLATE, method=cv2.LMEDS)[0]
    expected_bgr = cv2.warpAffine(
        image[..., ::-1],
        matrix,
        (512, 512),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(135, 133, 132),
    )
    crop = pulid_crop(image, CENTERFACE)
    assert crop.shape == (512, 512, 3)
    difference = np.abs(crop.astype(int) - expected_bgr[..., ::-1])
    assert difference.max() <= 1


def test_pulid_crop_paints_grey_outside_the_photo(photos: dict[str, np.ndarray]) -> None:
    crop = pulid_crop(photos["astronaut"], similarity(CENTERFACE, 1.0, 0.0, (-190, -90)))
    assert crop[10, 10].tolist() == [132, 133, 135]


def test_one_point_far_off_does_not_turn_the_pulid_crop(photos: dict[str, np.ndarray]) -> None:
    exact = similarity(FACEXLIB_TEMPLATE, 0.4, 8.0, (120, 10))
    misplaced = exact.copy()
    misplaced[2] += (60, -40)
    straight = pulid_crop(photos["astronaut"], exact).astype(int)
    robust = pulid_crop(photos["astronaut"], misplaced).astype(int)
    assert np.abs(straight - robust).mean() < 1.0


def test_five_of_68_are_the_five_points(meshes: dict[str, np.ndarray]) -> None:
    landmarks_68 = landmarks_68_from_mesh(meshes["astronaut"])
    points = arcface_points_from_68(landmarks_68)
    assert points.dtype == np.float32
    inter_eye = np.linalg.norm(CENTERFACE[1] - CENTERFACE[0])
    assert (np.linalg.norm(points - CENTERFACE, axis=1) / inter_eye).max() < 0.25
    np.testing.assert_allclose(points[0], np.mean([landmarks_68[i, :2] for i in range(36, 42)], axis=0))
    with_depth = np.concatenate([landmarks_68[:, :2], np.ones((68, 1), np.float32)], axis=1)
    np.testing.assert_array_equal(arcface_points_from_68(with_depth), points)


def test_unusable_points_are_refused(photos: dict[str, np.ndarray]) -> None:
    one_place = np.full((5, 2), 7, np.float32)
    with pytest.raises(ValueError, match="one place"):
        arcface_chip(photos["astronaut"], one_place)
    with pytest.raises(ValueError, match="no similarity"):
        pulid_crop(photos["astronaut"], one_place)
    with pytest.raises(ValueError, match="NaN"):
        pulid_crop(photos["astronaut"], np.full((5, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="landmarks_68"):
        arcface_points_from_68(np.zeros((5, 2), np.float32))
