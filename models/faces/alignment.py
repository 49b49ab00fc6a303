"""Similarity transforms between a photograph and the frames that face networks expect.

A transform is a 2x3 float32 matrix that maps continuous pixel coordinates of the photo to those of the frame.
"""

import cv2
import numpy as np

from models.faces.images import Image, Points, require_points, require_rgb
from models.faces.topology import FIVE_POINTS

DLIB_CHIP_SIZE = 150
DLIB_CHIP_PADDING = 0.25
"""Size in pixels and padding (a share of the unpadded chip) of the chips dlib's face network was trained
on."""

DLIB_FIVE_POINTS = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
"""Mean position of dlib's five points in an unpadded unit chip (dlib, image_transforms, face chip details):
the
subject's left eye outer and inner corner, right eye outer and inner corner, base of the nose."""

FFHQ_SIZE = 512
"""Default side of an FFHQ-like frame, in pixels (FFHQ itself is 1024)."""


def umeyama(source_N2: Points, target_N2: Points) -> Points:
    """Similarity (rotation, uniform scale, shift; no reflection) with the least squared error.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns"
        (1991).

    Returns:
        (2, 3) float32 matrix that maps `source_N2` towards `target_N2`.

    Raises:
        ValueError: fewer than two points, different counts, values not finite, or all source points in one
            place.
    """
    count = len(source_N2)
    source = require_points(source_N2, (count, 2), "source_N2").astype(np.float64)
    target = require_points(target_N2, (count, 2), "target_N2").astype(np.float64)
    if count < 2:
        raise ValueError("a similarity needs at least two points")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    variance = ((source - source_mean) ** 2).sum() / count
    if variance < 1e-12:
        raise ValueError("all source points lie in one place")
    covariance = (target - target_mean).T @ (source - source_mean) / count
    left, singular, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = (singular * signs).sum() / variance
    shift = target_mean - scale * rotation @ source_mean
    return np.concatenate([scale * rotation, shift[:, None]], axis=1).astype(np.float32)


def five_points(points_478x3: Points) -> Points:
    """dlib's five points of a mesh, (5, 2) float32 pixels, in the order of `DLIB_FIVE_POINTS`."""
    return require_points(points_478x3, (478, 3), "points_478x3")[list(FIVE_POINTS), :2]


def align_to_dlib(points_52: Points) -> Points:
    """Transform of a photo into dlib's 150-pixel chip, (2, 3) float32.

    Args:
        points_52: (5, 2) pixels, as from `five_points`.
    """
    unit = np.array(DLIB_FIVE_POINTS, np.float64)
    chip = (unit + DLIB_CHIP_PADDING) / (1 + 2 * DLIB_CHIP_PADDING) * DLIB_CHIP_SIZE
    return umeyama(require_points(points_52, (5, 2), "points_52"), chip.astype(np.float32))


def align_to_ffhq(landmarks_68: Points, size: int = FFHQ_SIZE) -> Points:
    """Transform of a photo into a square frame as in FFHQ, (2, 3) float32.

    The frame follows the recipe of the data set (Karras et al., "A Style-Based Generator Architecture for
    GANs", FFHQ alignment): its horizontal axis is the eye line plus the eyes-to-mouth line turned by a right
    angle, its half side the larger of 2.0 eye distances and 1.8 eye-to-mouth distances, its centre a tenth
    of the way from the eyes to the mouth.

    Args:
        landmarks_68: (68, 2) pixels, iBUG order.
        size: side of the frame in pixels.

    Raises:
        ValueError: wrong shape, values not finite, or eyes and mouth in one place.
    """
    points = require_points(landmarks_68, (68, 2), "landmarks_68").astype(np.float64)
    first_eye, second_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes, eye_line = (first_eye + second_eye) / 2, second_eye - first_eye
    eyes_to_mouth = (points[48] + points[54]) / 2 - eyes
    axis = eye_line - np.array([-eyes_to_mouth[1], eyes_to_mouth[0]])
    length = np.linalg.norm(axis)
    if length < 1e-6:
        raise ValueError("eyes and mouth lie in one place: no orientation can be told")
    axis *= max(np.linalg.norm(eye_line) * 2.0, np.linalg.norm(eyes_to_mouth) * 1.8) / length
    centre = eyes + eyes_to_mouth * 0.1
    across = np.array([-axis[1], axis[0]])
    corners = np.stack([centre - axis - across, centre + axis - across, centre - axis + across])
    frame = np.array([[0, 0], [size, 0], [0, size]], np.float32)
    return umeyama(corners.astype(np.float32), frame)


def invert(matrix_2x3: Points) -> Points:
    """The transform back, (2, 3) float32.

    Raises:
        ValueError: the matrix cannot be inverted.
    """
    matrix = require_points(matrix_2x3, (2, 3), "matrix_2x3").astype(np.float64)
    if abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError("the transform squeezes the plane into a line and has no inverse")
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1).astype(np.float32)


def transform_points(points_N2: Points, matrix_2x3: Points) -> Points:
    """Apply a transform to (N, 2) points; float32."""
    matrix = matrix_2x3.astype(np.float64)
    return (points_N2.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def warp(image: Image, matrix_2x3: Points, size: int) -> Image:
    """Render the square frame of a transform, uint8 (size, size, 3).

    A photo larger than the frame is averaged down first, so that reduction does not alias; pixels outside
    the photo repeat its border.

    Args:
        image: uint8 (H, W, 3).
        matrix_2x3: photo to frame, continuous coordinates.
        size: side of the frame in pixels.
    """
    image = require_rgb(image)
    matrix = require_points(matrix_2x3, (2, 3), "matrix_2x3").astype(np.float64)
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if scale < 1.0:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = require_rgb(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA))
        matrix[:, :2] = matrix[:, :2] @ np.diag([width / reduced[0], height / reduced[1]])
    # OpenCV counts from pixel centres, we count from the corner of the first pixel.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    frame = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return require_rgb(frame)
