"""`face_quality_v1`: a no-reference quality score of a face photograph, from 0 (unusable) to 10.

It is our own measure and NOT an aesthetic score: it says whether the face can be seen well, not whether the
picture is beautiful. It stands where the paper uses a learned aesthetic predictor, so thresholds must not be
carried over. The components are those of face image quality standards (ISO/IEC 29794-5): sharpness, noise,
compression, exposure, dynamic range, distance between the eyes, pose. Each is mapped to 0..1 by a monotone
function given below. Colour is not judged: a black-and-white photograph is not a bad one.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces import topology
from models.faces.alignment import warp
from models.faces.images import Image, Mask, Points, require_points, require_rgb
from models.faces.landmarks import inter_ocular_px
from models.faces.parsing import polygon_mask

SCORER_NAME = "face_quality_v1"

FRAME_SIZE = 128
"""The face oval is brought to this side, in pixels, before sharpness and exposure are measured."""

LUMA_WEIGHTS = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""ITU-R BT.709."""

FINE_SIGMA, COARSE_SIGMA, SHADING_SIGMA = 1.0, 2.0, 4.0
"""Gaussian widths in frame pixels: detail lies between the first two, shading above the third."""

SHARPNESS_SCALE = 0.15
"""Ratio of detail to shading at which sharpness reaches 1 - 1/e."""

NOISE_FREE, NOISE_SCALE = 2.5, 10.0
"""Noise (standard deviation in grey levels) that a good photo may have, and its decay beyond."""

BLOCKING_FREE, BLOCKING_SCALE = 1.2, 1.0
"""Blocking ratio that any photo may have, and its decay beyond."""

DARK_LEVEL, BRIGHT_LEVEL = 25, 247
"""Grey levels below which a pixel has lost its shadow, and from which it has lost its light (ISO/IEC
29794-5)."""

ENTROPY_NONE, ENTROPY_FULL = 4.0, 7.0
"""Entropy of the grey levels, in bits, that counts as no dynamic range and as all one needs."""

INTER_EYE_SCALE = 40.0
"""Distance between the eyes, in pixels, at which resolution reaches 1 - 1/e."""

IMMERKAER_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Difference of two Laplacians: blind to planes and edges, answers noise of deviation s with 6 s (Immerkær
1996)."""

MEDIAN_TO_DEVIATION = 0.6745
"""Median of the absolute value of a standard normal variable."""

BLOCK = 8
"""Side of a JPEG block in pixels."""


@dataclass(frozen=True)
class FaceQuality:
    """The score and what it is made of; every component lies in 0..1, larger is better.

    Attributes:
        score: 10 times the geometric mean of four groups: clarity (sharpness x noise x compression), light
            (exposure x dynamic range), resolution, and pose. One hopeless group makes the face hopeless.
        sharpness: 1 - exp(-(r / 0.15)^2), r = fine detail over coarse shading on the normalised face.
        noise: exp(-(s - 2.5) / 10) above s = 2.5 grey levels, 1 below.
        compression: exp(-(b - 1.2)) above b = 1.2, 1 below; b = steps across the block grid over other steps.
        exposure: squared share of face pixels that are neither nearly black nor nearly white.
        dynamic_range: entropy of the grey levels, 4 bits -> 0, 7 bits and more -> 1.
        resolution: 1 - exp(-d / 40), d = distance between the eyes in pixels.
        pose: cos(yaw) * cos(pitch), 0 when turned away; roll costs nothing.
    """

    score: float
    sharpness: float
    noise: float
    compression: float
    exposure: float
    dynamic_range: float
    resolution: float
    pose: float


def face_quality(image: Image, points_478x3: Points, pose: tuple[float, float, float]) -> FaceQuality:
    """Score the face of a photograph.

    Args:
        image: uint8 RGB (H, W, 3).
        points_478x3: (478, 3) pixels of the fitted mesh.
        pose: yaw, pitch, roll in degrees; see `models.faces.landmarks.head_pose`.

    Raises:
        ValueError: wrong shapes, coordinates or angles that are not finite, or a mesh without extent.
    """
    image = require_rgb(image)
    points = require_points(points_478x3, (478, 3), "points_478x3")
    yaw, pitch, _ = require_points(np.array(pose, np.float32), (3,), "pose")
    luma, oval = _normalised_face(image, points)
    native, skin = _native_face(image, points)

    sharpness = 1.0 - np.exp(-((detail_ratio(luma, oval) / SHARPNESS_SCALE) ** 2))
    noise = np.exp(-max(0.0, noise_deviation(native, skin) - NOISE_FREE) / NOISE_SCALE)
    compression = np.exp(-max(0.0, blocking_ratio(native) - BLOCKING_FREE) / BLOCKING_SCALE)
    lost = (luma[oval] < DARK_LEVEL).mean() + (luma[oval] >= BRIGHT_LEVEL).mean()
    exposure = (1.0 - lost) ** 2
    dynamic_range = (grey_entropy(luma[oval]) - ENTROPY_NONE) / (ENTROPY_FULL - ENTROPY_NONE)
    dynamic_range = min(max(dynamic_range, 0.0), 1.0)
    resolution = 1.0 - np.exp(-inter_ocular_px(points) / INTER_EYE_SCALE)
    turned = max(0.0, np.cos(np.radians(yaw))) * max(0.0, np.cos(np.radians(pitch)))

    groups = np.array([sharpness * noise * compression, exposure * dynamic_range, resolution, turned])
    return FaceQuality(
        score=float(10.0 * np.prod(groups) ** (1 / len(groups))),
        sharpness=float(sharpness),
        noise=float(noise),
        compression=float(compression),
        exposure=float(exposure),
        dynamic_range=float(dynamic_range),
        resolution=float(resolution),
        pose=float(turned),
    )


def detail_ratio(luma: NDArray[np.float32], mask: Mask) -> float:
    """Root mean square of detail (between Gaussian widths 1 and 2) over that of shading (above 4) inside a
    mask.

    A ratio, so that a dark or flat picture is not called blurred.
    """
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    inner = inner if inner.any() else mask
    fine, coarse, shading = (
        cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (FINE_SIGMA, COARSE_SIGMA, SHADING_SIGMA)
    )
    detail = np.sqrt(((fine - coarse)[inner] ** 2).mean())
    # One grey level of shading at least: without it an evenly grey picture would divide nothing by nothing.
    return float(detail / max(1.0, shading[inner].std()))


def noise_deviation(luma: NDArray[np.float32], mask: Mask) -> float:
    """Standard deviation of the pixel noise in grey levels, from the median answer to `IMMERKAER_KERNEL`."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    inner = inner if inner.any() else np.ones_like(mask)
    answer = np.abs(cv2.filter2D(luma, -1, IMMERKAER_KERNEL))[inner]
    return float(np.median(answer) / MEDIAN_TO_DEVIATION / 6.0)


def blocking_ratio(luma: NDArray[np.float32]) -> float:
    """Mean step across the strongest of the eight possible block grids over the median grid; 1 without
    blocks.

    Mean of both directions. A picture with fewer than two blocks in a direction counts as 1 there.
    """
    ratios = []
    for rows in (luma, luma.T):
        steps = np.abs(np.diff(rows, axis=1))
        whole = steps.shape[1] // BLOCK * BLOCK
        if whole < 2 * BLOCK:
            ratios.append(1.0)
            continue
        grids = steps[:, :whole].reshape(len(rows), -1, BLOCK).mean(axis=(0, 1))
        ratios.append(float((grids.max() + 0.05) / (np.median(grids) + 0.05)))
    return float(np.mean(ratios))


def grey_entropy(luma: NDArray[np.float32]) -> float:
    """Entropy of the histogram of 256 grey levels, 0..8 bits."""
    counts = np.bincount(np.clip(luma, 0, 255).astype(np.intp), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _normalised_face(image: Image, points: Points) -> tuple[NDArray[np.float32], Mask]:
    """Luma of the face oval's bounding square at `FRAME_SIZE`, and the oval in it."""
    oval = points[list(topology.FACE_OVAL), :2]
    low, high = oval.min(axis=0), oval.max(axis=0)
    side = float((high - low).max())
    if side < 1.0:
        raise ValueError(f"the mesh is {side:.2f} px wide: no face can be measured")
    scale = FRAME_SIZE / side
    shift = FRAME_SIZE / 2 - (low + high) / 2 * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    frame = warp(image, matrix, FRAME_SIZE)
    return frame @ LUMA_WEIGHTS, polygon_mask(oval * scale + shift, (FRAME_SIZE, FRAME_SIZE))


def _native_face(image: Image, points: Points) -> tuple[NDArray[np.float32], Mask]:
    """Luma of the face's bounding box in the photo's own pixels, and its plain skin.

    Noise and blocks are properties of the photo's own pixel grid and do not survive resizing.
    """
    height, width = image.shape[:2]
    oval = points[list(topology.FACE_OVAL), :2]
    left, top = np.clip(np.floor(oval.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(oval.max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    size = (int(bottom - top), int(right - left))
    skin = polygon_mask(oval - (left, top), size)
    for feature in (
        topology.NOSE,
        topology.RIGHT_BROW,
        topology.LEFT_BROW,
        topology.RIGHT_EYE,
        topology.LEFT_EYE,
        topology.UPPER_LIP,
        topology.LOWER_LIP,
        topology.MOUTH,
    ):
        skin &= ~polygon_mask(points[list(feature), :2] - (left, top), size)
    return image[top:bottom, left:right] @ LUMA_WEIGHTS, skin
