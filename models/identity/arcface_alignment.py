"""Face crops by five points: the 112-pixel chip of ArcFace and SFace, and PuLID's 512-pixel crop.

The five points are the eye on the picture's left, the eye on its right, the tip of the nose, the corner of
the mouth on the left and the one on the right, in the pixels of `models.faces`. Both templates count from
pixel centres, as the tools that made them do, which is why the crops are not those of
`models.faces.alignment.warp`: a network that was trained on bilinear, unsmoothed chips is given the same.
"""

import cv2
import numpy as np

from models.faces.alignment import umeyama
from models.faces.images import Image, Points, require_points, require_rgb

ARCFACE_SIZE = 112

ARCFACE_FIVE_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Positions in the 112-pixel chip (insightface, `face_align`; OpenCV's SFace uses the same)."""

PULID_CROP_SIZE = 512

FFHQ_FIVE_POINTS = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
"""Mean positions in FFHQ faces of 512 pixels (facexlib, `FaceRestoreHelper`)."""

PULID_BORDER = (132, 133, 135)
"""RGB of crop pixels outside the photograph (facexlib)."""

PIXEL_CENTRE = np.float32(0.5)
"""Where `models.faces` sees the centre of the first pixel; the templates see it at 0."""

EYE_FIRST, EYE_SECOND = slice(36, 42), slice(42, 48)
NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT = 30, 48, 54
"""iBUG indices."""


def arcface_points_from_68(landmarks_68: Points) -> Points:
    """The five points of 68 landmarks in iBUG order, (5, 2) float32; an eye is the mean of its outline.

    Args:
        landmarks_68: (68, 2) or (68, 3) pixels; a depth is ignored.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    columns = 3 if landmarks_68.ndim == 2 and landmarks_68.shape[1] == 3 else 2
    points = require_points(landmarks_68, (68, columns), "landmarks_68")[:, :2]
    eyes = [points[EYE_FIRST].mean(axis=0), points[EYE_SECOND].mean(axis=0)]
    return np.stack([*eyes, points[NOSE_TIP], points[MOUTH_LEFT], points[MOUTH_RIGHT]]).astype(np.float32)


def align_to_arcface(points_52: Points) -> Points:
    """Transform of pixel centres of a photo to those of the chip, (2, 3) float32; least squares.

    Raises:
        ValueError: another shape, values that are not finite, or all points in one place.
    """
    points = require_points(points_52, (5, 2), "points_52") - PIXEL_CENTRE
    return umeyama(points, np.array(ARCFACE_FIVE_POINTS, np.float32))


def arcface_chip(image: Image, points_52: Points) -> Image:
    """The chip of a face as insightface and OpenCV cut it, uint8 (112, 112, 3); black outside the photo.

    Raises:
        ValueError: not an RGB image, or unusable points.
    """
    return _crop(image, align_to_arcface(points_52), ARCFACE_SIZE, (0, 0, 0))


def pulid_crop(image: Image, points_52: Points) -> Image:
    """The crop PuLID parses and shows to EVA-CLIP, uint8 (512, 512, 3); grey outside the photo.

    The similarity is the one of least median error, so that one point far off does not turn the crop.

    Raises:
        ValueError: not an RGB image, unusable points, or points that fit no similarity.
    """
    points = require_points(points_52, (5, 2), "points_52") - PIXEL_CENTRE
    template = np.array(FFHQ_FIVE_POINTS, np.float32)
    matrix = cv2.estimateAffinePartial2D(points, template, method=cv2.LMEDS)[0]
    if matrix is None or not np.isfinite(matrix).all():
        raise ValueError(f"no similarity brings the points {points_52.tolist()} to a face")
    return _crop(image, matrix, PULID_CROP_SIZE, PULID_BORDER)


def _crop(image: Image, matrix_2x3: np.ndarray, size: int, border: tuple[int, int, int]) -> Image:
    frame = cv2.warpAffine(
        require_rgb(image),
        matrix_2x3.astype(np.float64),
        (size, size),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
    return require_rgb(frame)
