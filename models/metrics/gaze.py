"""Where the eyes look, from the iris and the corners of the eyes of a face mesh."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

EYES: Final = ((33, 133, slice(468, 473)), (362, 263, slice(473, 478)))
"""Corner on the picture's left, corner on its right, and iris of both eyes (MediaPipe's face mesh)."""


def gaze_offsets(mesh_N478x3: ArrayLike) -> NDArray[np.float64]:
    """Place of each iris between the corners of its eye, in widths of that eye, shape (N, 2, 2).

    The first axis of the pair of numbers runs from the left corner to the right one, the second at right
    angles to it, down where the head is upright; 0 is the middle between the corners. So place, size and roll
    of the head drop out; its turn does not, and neither does the shape of the eye.

    Raises:
        ValueError: another shape, a value that is not finite, or an eye of no width.
    """
    meshes = np.asarray(mesh_N478x3, np.float64)
    if meshes.ndim != 3 or meshes.shape[1:] != (478, 3):
        raise ValueError(f"meshes must be (N, 478, 3), got {meshes.shape}")
    if not np.isfinite(meshes).all():
        raise ValueError("meshes hold a value that is not finite")
    points = meshes[:, :, :2]
    offsets = np.empty((len(points), len(EYES), 2))
    for eye, (left, right, iris) in enumerate(EYES):
        along = points[:, right] - points[:, left]
        squared = (along**2).sum(axis=1)
        if (squared == 0).any():
            raise ValueError(f"the corners of an eye of mesh {int(np.argmin(squared))} coincide")
        away = points[:, iris].mean(axis=1) - (points[:, left] + points[:, right]) / 2
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        offsets[:, eye, 0] = (away * along).sum(axis=1) / squared
        offsets[:, eye, 1] = (away * across).sum(axis=1) / squared
    return offsets


def gaze_difference(mesh_N478x3: ArrayLike, reference_N478x3: ArrayLike) -> NDArray[np.float64]:
    """How far the irises moved within their eyes, in eye widths, mean of both eyes, shape (N,).

    Raises:
        ValueError: as `gaze_offsets`, or shapes that differ.
    """
    first, second = gaze_offsets(mesh_N478x3), gaze_offsets(reference_N478x3)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} meshes have {len(second)} references")
    return np.linalg.norm(first - second, axis=2).mean(axis=1)
