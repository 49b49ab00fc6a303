"""The source's face shape under the target's pose and expression: landmarks for the condition image.

APPLE draws the target's own landmarks, so the target's outline leaks into the swap. Here the points are those
the source would have in the target's photograph: exact from 3DMM coefficients, where a face model is there,
and by proportions from two sets of 68 points, where there is a mesh alone. Our ablation, not the paper's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.images import Points, require_points
from models.faces.reconstruction.coefficients import COEFFICIENT_COUNT, IDENTITY_SIZE, split_coefficients
from models.faces.reconstruction.five_points import FivePointAlignment
from models.faces.reconstruction.geometry import FaceGeometry

JAW: Final = slice(0, 17)
EYES: Final = ((36, 39, (37, 38, 40, 41), slice(17, 22)), (42, 45, (43, 44, 46, 47), slice(22, 27)))
"""Of each eye: its two corners, its lid points, and its brow."""

POSE_STABLE: Final = (*range(5), *range(12, 17), *range(27, 31), 36, 39, 42, 45)
"""Points that follow the skull: the outline beside the ears, the nose bridge, the corners of the eyes."""

MOUTH_CORNERS: Final = (48, 54)
UPPER_LIP, LOWER_LIP = 62, 66
INNER_LIPS: Final = slice(60, 68)
MOUTH_ANCHOR: Final = (60, UPPER_LIP, 64, LOWER_LIP)
OUTER_LIP_NEIGHBOURS: Final = (
    (60,), (60, 61), (61,), (62,), (63,), (63, 64), (64,), (64, 65), (65,), (66,), (67,), (67, 60),
)  # fmt: skip
"""Points of the inner lips across from each of the outer points 48 to 59."""

CHIN_DROP: Final = 0.6  # how far the chin falls, of what the lips part
BROW_EXPRESSION: Final = 0.5  # nobody can tell a raised brow from a high one in one picture: half of each


def recombine_coefficients(
    source_257: NDArray[np.floating], target_257: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return the target's 3DMM coefficients with the source's 80 identity numbers.

    Expression, albedo, pose, light and translation stay the target's.

    Args:
        source_257: (257,) or (B, 257), in the layout of `coefficients.split_coefficients`.
        target_257: of the same shape.

    Raises:
        ValueError: the shapes differ, or the rows have another length.
    """
    if source_257.shape != target_257.shape or target_257.shape[-1:] != (COEFFICIENT_COUNT,):
        raise ValueError(
            f"need two equal shapes (..., {COEFFICIENT_COUNT}), got {source_257.shape} and {target_257.shape}"
        )
    mixed = target_257.astype(np.float32)
    mixed[..., :IDENTITY_SIZE] = source_257[..., :IDENTITY_SIZE]
    return mixed


def project_shape(
    geometry: FaceGeometry,
    source_257: NDArray[np.floating],
    target_257: NDArray[np.floating],
    alignment: FivePointAlignment,
) -> Points:
    """Return the 68 points of the source's shape in the target's photograph, (68, 2) pixels.

    Args:
        geometry: of the user's face model.
        source_257: coefficients of any photograph of the source.
        target_257: coefficients of the target's photograph.
        alignment: of the target's photograph, as its coefficients were found with.

    Raises:
        ValueError: rows of another length, or a face behind the camera.
    """
    row = recombine_coefficients(source_257, target_257)
    coefficients = split_coefficients(torch.from_numpy(row)[None].to(geometry.mean_V3.device))
    with torch.inference_mode():
        landmarks = geometry(coefficients)
    if not bool(landmarks.in_front_B[0]):
        raise ValueError("the recombined face lies behind the camera; leave this pair out")
    return alignment.to_photo(landmarks.landmarks_68[0, :, :2].cpu().numpy()).astype(np.float32)


def transfer_shape(source_points_68x3: Points, target_points_68x3: Points) -> Points:
    """Return the 68 points that the source's face would have in the target's photograph, (68, 2) pixels.

    The source's points are laid onto the target's by the similarity that fits `POSE_STABLE` best. From there:

    - outline, nose and corners of the eyes are the source's; the chin follows the target's open mouth;
    - brows are the source's, with half of what the target's differ in height above the eye;
    - lids keep the target's distance from the line between the corners: a blink stays;
    - the inner lips are the target's, as wide as the source's mouth and where it sits; the outer lips lie
      around them with the source's thickness.

    What one picture cannot tell apart stays mixed: the source's own smile widens the mouth that is
    transferred. With source and target the same, the points come back.

    Args:
        source_points_68x3: iBUG order, pixels of any photograph of the source; the third column is depth in
            the same scale, as from `landmarks_68_from_mesh` or 3DDFA-V3.
        target_points_68x3: likewise, of the target's photograph.

    Raises:
        ValueError: wrong shapes, or a coordinate that is not finite.
    """
    source = require_points(source_points_68x3, (68, 3), "source_points_68x3").astype(np.float64)
    target = require_points(target_points_68x3, (68, 3), "target_points_68x3").astype(np.float64)
    laid = _laid_onto(source, target)
    shape = laid.copy()
    _brows_and_lids(shape, laid, target)
    _mouth(shape, laid, target)
    parted = (target[LOWER_LIP] - target[UPPER_LIP]) - (laid[LOWER_LIP] - laid[UPPER_LIP])
    nearness_to_chin = 1.0 - np.abs(np.linspace(-1.0, 1.0, 17))
    shape[JAW] += CHIN_DROP * nearness_to_chin[:, None] * parted
    return shape[:, :2].astype(np.float32)


def _laid_onto(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """All source points under the similarity that brings the pose-stable ones nearest to the target's."""
    stable = list(POSE_STABLE)
    source_centre, target_centre = source[stable].mean(axis=0), target[stable].mean(axis=0)
    centred, goal = source[stable] - source_centre, target[stable] - target_centre
    left, sizes, right = np.linalg.svd(goal.T @ centred)
    # A mirrored face is no pose (Umeyama 1991).
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * signs) @ right
    scale = (sizes * signs).sum() / (centred**2).sum()
    return scale * (source - source_centre) @ rotation.T + target_centre


def _brows_and_lids(
    shape: NDArray[np.float64], laid: NDArray[np.float64], target: NDArray[np.float64]
) -> None:
    up = target[27] - target[30]
    up /= np.linalg.norm(up)
    for first, second, lids, brow in EYES:
        corners = [first, second]
        height = (
            (target[brow] - target[corners].mean(axis=0)) - (laid[brow] - laid[corners].mean(axis=0))
        ) @ up
        shape[brow] += BROW_EXPRESSION * height[:, None] * up
        axis, own_axis = target[second] - target[first], laid[second] - laid[first]
        for lid in lids:
            along = (target[lid] - target[first]) @ axis / (axis @ axis)
            away = target[lid] - target[first] - along * axis
            shape[lid] = laid[first] + along * own_axis + away


def _mouth(shape: NDArray[np.float64], laid: NDArray[np.float64], target: NDArray[np.float64]) -> None:
    anchor = list(MOUTH_ANCHOR)
    right, left = MOUTH_CORNERS
    axis = target[left] - target[right]
    width = np.linalg.norm(axis)
    axis /= width
    stretch = np.linalg.norm(laid[left] - laid[right]) / width
    offsets = target[INNER_LIPS] - target[anchor].mean(axis=0)
    offsets += ((stretch - 1.0) * (offsets @ axis))[:, None] * axis
    shape[INNER_LIPS] = laid[anchor].mean(axis=0) + offsets
    for outer, inner in enumerate(OUTER_LIP_NEIGHBOURS, start=48):
        across = list(inner)
        shape[outer] = shape[across].mean(axis=0) + laid[outer] - laid[across].mean(axis=0)
