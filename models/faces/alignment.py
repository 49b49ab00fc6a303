"""Similarity transforms between a photograph and the frames that face networks expect.

A transform is a 2x3 float32 matrix that maps continuous pixel coordinates of the photo to those of the frame.
"""

import cv2
import numpy as np

from models.faces.images import Image, Mask, Points, require_mask, require_points, require_rgb
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

VGGFACE2_SIZE = 512
"""Side of the pictures of VGGFace2-HQ, in pixels."""

VGGFACE2_TEMPLATE_SIZE = 112
VGGFACE2_TEMPLATES = (
    ((51.642, 50.115), (57.617, 49.990), (35.740, 69.007), (51.157, 89.050), (57.025, 89.702)),
    ((45.031, 50.118), (65.568, 50.872), (39.677, 68.111), (45.177, 86.190), (64.246, 86.758)),
    ((39.730, 51.138), (72.270, 51.138), (56.000, 68.493), (42.463, 87.010), (69.537, 87.010)),
    ((46.845, 50.872), (67.382, 50.118), (72.737, 68.111), (48.167, 86.758), (67.236, 86.190)),
    ((54.796, 49.990), (60.771, 50.115), (76.673, 69.007), (55.388, 89.702), (61.257, 89.050)),
)
"""Five points in a frame of 112 pixels, for faces turned from the picture's left to its right (insightface,
`face_align`; the alignment that VGGFace2-HQ's folders call "None"). They count from pixel centres."""


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


def align_to_vggface2(points_52: Points, size: int = VGGFACE2_SIZE) -> Points:
    """Transform of a photo into a square frame as in VGGFace2-HQ, (2, 3) float32.

    Of the five templates, one for each degree of turning, the one that the points fit best is taken.

    Args:
        points_52: (5, 2) pixels: the eye on the picture's left, the other eye, the tip of the nose, the
            corner of the mouth on the left, the other corner.
        size: side of the frame in pixels.

    Raises:
        ValueError: wrong shape, values not finite, or all points in one place.
    """
    points = require_points(points_52, (5, 2), "points_52")
    templates = np.array(VGGFACE2_TEMPLATES, np.float64) * size / VGGFACE2_TEMPLATE_SIZE + 0.5
    fits = [umeyama(points, template.astype(np.float32)) for template in templates]
    errors = [
        np.linalg.norm(transform_points(points, fit) - template, axis=1).sum()
        for fit, template in zip(fits, templates, strict=True)
    ]
    return fits[int(np.argmin(errors))]


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


def warp(image: Image, matrix_2x3: Points, size: int | tuple[int, int]) -> Image:
    """Render the frame of a transform, uint8 (size, size, 3).

    A photo larger than the frame is averaged down first, so that reduction does not alias; pixels outside
    the photo repeat its border.

    Args:
        image: uint8 (H, W, 3).
        matrix_2x3: photo to frame, continuous coordinates.
        size: side of the square frame in pixels, or (height, width).
    """
    frame_height, frame_width = (size, size) if isinstance(size, int) else size
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
        image, matrix, (frame_width, frame_height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return require_rgb(frame)


def place_mask(mask_SS: Mask, matrix_2x3: Points, size: tuple[int, int]) -> Mask:
    """Where a frame's mask lies in the photo, bool of `size` = (height, width): all that pasting may change.

    Args:
        mask_SS: (S, S), bool or 0/non-zero.
        matrix_2x3: photo to frame, continuous coordinates.
        size: of the photo.

    Raises:
        ValueError: a matrix without inverse.
    """
    covered = np.zeros(size, np.bool_)
    region, shifted = _region(matrix_2x3, mask_SS.shape, size)
    covered[region] = _covered(mask_SS, shifted, covered[region].shape)
    return covered


def paste_back(
    photo: Image, frame: Image, matrix_2x3: Points, mask_SS: Mask | None = None, feather: float = 0.0
) -> Image:
    """The photo with an edited frame put back where it was taken from, uint8 (H, W, 3).

    Pixels whose place in the frame is not in the mask are the photo's own, to the bit.

    Args:
        photo: uint8 (H, W, 3).
        frame: uint8 (S, S, 3), the edited picture of `warp(photo, matrix_2x3, S)`.
        matrix_2x3: photo to frame, continuous coordinates.
        mask_SS: (S, S), bool or 0/non-zero: what of the frame is put back; None is all of it.
        feather: width in pixels of the photo over which the frame fades out inside the edge of the mask.

    Raises:
        ValueError: a wrong shape or type, a negative `feather`, or a matrix without inverse.
    """
    photo, frame = require_rgb(photo, "photo"), require_rgb(frame, "frame")
    side = (frame.shape[0], frame.shape[1])
    mask = np.ones(side, np.bool_) if mask_SS is None else require_mask(mask_SS, side, "mask_SS")
    if feather < 0:
        raise ValueError(f"feather {feather} must not be negative")
    result = photo.copy()
    region, shifted = _region(matrix_2x3, side, photo.shape[:2])
    part = photo[region]
    if not part.size:
        return result
    covered = _covered(mask, shifted, part.shape[:2])
    placed = warp(frame, invert(shifted), part.shape[:2])[covered]
    if feather > 0:
        depth = cv2.distanceTransform(covered.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        share = np.clip(depth / feather, 0, 1)[covered][:, None]
        placed = np.rint(placed * share + part[covered] * (1 - share)).astype(np.uint8)
    result[region][covered] = placed
    return result


def _region(
    matrix_2x3: Points, side: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[slice, slice], Points]:
    """Rows and columns of the photo that a frame can cover, and the transform from there to the frame.

    A face takes little of a large photo; what is pasted costs as much as the face.
    """
    height, width = side
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    there = transform_points(corners, invert(matrix_2x3))
    # one pixel more, so that the outside of the mask is in the region wherever the photo has it
    low = np.clip(np.floor(there.min(axis=0)) - 1, 0, size[::-1]).astype(int)
    high = np.clip(np.ceil(there.max(axis=0)) + 1, 0, size[::-1]).astype(int)
    shifted = matrix_2x3.astype(np.float64)
    shifted[:, 2] += shifted[:, :2] @ low
    return (slice(low[1], high[1]), slice(low[0], high[0])), shifted.astype(np.float32)


def _covered(mask_SS: Mask, matrix_2x3: Points, size: tuple[int, int]) -> Mask:
    """Pixels of a region of `size` = (height, width) whose place in the frame is in the mask."""
    if 0 in size:
        return np.zeros(size, np.bool_)
    centred = invert(matrix_2x3).astype(np.float64)
    centred[:, 2] += centred[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(
        (mask_SS != 0).astype(np.uint8), centred, size[::-1], flags=cv2.INTER_NEAREST, borderValue=0
    ).astype(np.bool_)
