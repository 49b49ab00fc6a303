"""Classical face swapping: the source's face warped onto the target's by landmarks, relit and blended in.

Nothing is learnt: piecewise affine warp over a triangulation of the 68 points and the forehead, the target's
low frequencies for light and colour, and Poisson blending (Pérez et al., "Poisson Image Editing", SIGGRAPH
2003, by OpenCV's `seamlessClone`). What it cannot do shows what a trained model is for: the target's make-up,
gaze and expression inside the features are the source's own, and what the source's photograph does not show
(the far cheek, an occluded eye) cannot be invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.baselines.triangulation import DegenerateGeometry, hull_area, warp_by_points
from models.faces.images import Image, Mask, Points, require_mask, require_points, require_rgb

FOREHEAD_MESH = (67, 109, 10, 338, 297)
"""Points of mediapipe's 478-point mesh along the hairline, from the picture's left to its right."""

BROWS, CHIN, NASION = slice(17, 27), 8, 27
"""In the 68 points: the ten of the brows, the tip of the chin, the nose's root."""
INNER_LIPS = slice(60, 68)

FOREHEAD_HEIGHT = 0.45
"""Where no mesh gives it, the hairline lies this share of (nose root - chin) above the brows."""
LIGHT_SIGMA = 0.12
"""Width of the low pass that carries light and colour, in square roots of the face's area."""
STRONGEST_GAIN = 3.0
"""A pixel is made at most so many times lighter or darker."""
LEAST_AREA = 16.0
"""Faces whose points span less are refused, px²."""
PADDING = 8
"""Frame added around the picture for the blending, which must not touch its edge, px."""


@dataclass(frozen=True)
class MeshFace:
    """A photograph and where its face is.

    `image` uint8 RGB (H, W, 3), any size; `landmarks_68` (68, 2) px in iBUG order, the first pixel's
    centre at (0.5, 0.5); `face_mask` (H, W), bool
    or 0/non-zero, the visible face; `forehead` (5, 2) px along the hairline, or None where nothing gives it.
    """

    image: Image
    landmarks_68: Points
    face_mask: Mask
    forehead: Points | None = None


def forehead_of_mesh(mesh_478: Points) -> Points:
    """The five points along the hairline of a 478-point mesh (478, 2 or more), as (5, 2)."""
    return mesh_478[list(FOREHEAD_MESH), :2].astype(np.float32)


def mesh_warp_swap(source: MeshFace, target: MeshFace) -> Image:
    """The source's face on the target's photograph, uint8 RGB of the target's size.

    Pixels outside the target's face mask are the target's to the bit; so are those inside it that the
    landmarks do not span (ears, for one), that the source's own mask does not show (hair, hands), and the
    opening between the lips.

    Raises:
        DegenerateGeometry: points that span no face, or no pixel of the target's mask that the source shows.
        ValueError: a wrong shape or type, or a coordinate that is not finite.
    """
    source, target = _checked(source, "source"), _checked(target, "target")
    source_points, target_points = (
        _points(face, with_mesh=source.forehead is not None and target.forehead is not None)
        for face in (source, target)
    )
    areas = {"source": hull_area(source_points), "target": hull_area(target_points)}
    for name, area in areas.items():
        if area < LEAST_AREA:
            raise DegenerateGeometry(f"the {name}'s landmarks span {area:.1f} px², which is no face")
    source, source_points = _shrunk(source, source_points, (areas["target"] / areas["source"]) ** 0.5)
    size = (target.image.shape[0], target.image.shape[1])
    warped = warp_by_points(source.image, source_points, target_points, size)
    seen = warp_by_points(_as_picture(source.face_mask), source_points, target_points, size).image[..., 0]
    region = target.face_mask & warped.covered & (seen > 127)
    opening = np.zeros(size, np.uint8)
    cv2.fillPoly(opening, [np.floor(target.landmarks_68[INNER_LIPS]).astype(np.int32)], 1)
    region &= opening == 0
    if not region.any():
        raise DegenerateGeometry("no pixel of the target's face mask is one that the source's face shows")
    relit = _relit(warped.image, target.image, region, LIGHT_SIGMA * areas["target"] ** 0.5)
    return _blended(relit, target.image, region)


def _checked(face: MeshFace, name: str) -> MeshFace:
    image = require_rgb(face.image, f"{name}'s image")
    forehead = face.forehead
    return MeshFace(
        image,
        require_points(face.landmarks_68, (68, 2), f"{name}'s landmarks_68"),
        require_mask(face.face_mask, (image.shape[0], image.shape[1]), f"{name}'s face_mask"),
        None if forehead is None else require_points(forehead, (5, 2), f"{name}'s forehead"),
    )


def _points(face: MeshFace, *, with_mesh: bool) -> Points:
    """The 68 points and the hairline, (N, 2); the latter lifted from the brows unless both meshes give it."""
    if with_mesh and face.forehead is not None:
        return np.concatenate([face.landmarks_68, face.forehead])
    up = face.landmarks_68[NASION] - face.landmarks_68[CHIN]
    return np.concatenate([face.landmarks_68, face.landmarks_68[BROWS] + FOREHEAD_HEIGHT * up])


def _shrunk(face: MeshFace, points: Points, scale: float) -> tuple[MeshFace, Points]:
    """A source that is larger than its place in the target, averaged down so that the warp does not alias."""
    if scale > 0.75:
        return face, points
    height, width = face.face_mask.shape
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = cv2.resize(face.image, small, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(face.face_mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
    moved = points * np.array([small[0] / width, small[1] / height], np.float32)
    return MeshFace(np.asarray(image, np.uint8), face.landmarks_68, mask), moved


def _as_picture(mask: Mask) -> Image:
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def _relit(warped: Image, target: Image, region: Mask, sigma: float) -> Image:
    """The warped face with the target's low frequencies: its light, shade and skin colour, per channel."""
    weight = region.astype(np.float32)

    def low(image: Image) -> np.ndarray:
        summed = cv2.GaussianBlur(image.astype(np.float32) * weight[..., None], (0, 0), sigma)
        return summed / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-6)[..., None]

    # + 1: black stays finite
    gain = np.clip((low(target) + 1) / (low(warped) + 1), 1 / STRONGEST_GAIN, STRONGEST_GAIN)
    relit = np.where(region[..., None], warped * gain, target)
    return np.clip(np.round(relit), 0, 255).astype(np.uint8)


def _blended(face: Image, target: Image, region: Mask) -> Image:
    """The face in the target by its gradients; every pixel outside the region is the target's."""
    frame = ((PADDING, PADDING), (PADDING, PADDING))
    framed_face, framed_target = (np.pad(image, (*frame, (0, 0)), mode="edge") for image in (face, target))
    mask = np.pad(region.astype(np.uint8) * 255, frame)
    left, top, width, height = cv2.boundingRect(mask)
    # the mask's own place: OpenCV puts the middle of its bounding box there
    middle = (left + width // 2, top + height // 2)
    cloned = cv2.seamlessClone(framed_face, framed_target, mask, middle, cv2.NORMAL_CLONE)
    cloned = cloned[PADDING:-PADDING, PADDING:-PADDING]
    return np.where(region[..., None], cloned, target).astype(np.uint8)
