"""What of the target a swap kept: head pose, and expression with the pose taken out.

One row per swap; all arrays are float, as numpy arrays. Every metric is a difference: 0 is a perfect match.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.faces.topology import (
    LEFT_BROW,
    LEFT_EYE,
    LOWER_LIP,
    RIGHT_BROW,
    RIGHT_EYE,
    UPPER_LIP,
    mirrored,
)

Values = NDArray[np.float64]

_FOREHEAD: Final = (10, 109, 67, 103, 54, 21, 162, 127, 234)

RIGID: Final = tuple(
    sorted({*_FOREHEAD, *mirrored(_FOREHEAD), 168, 197, 5, 1, 2, 98, 327, 33, 133, 362, 263})
)
"""Vertices that hardly move with the expression: forehead, temples, bridge and base of the nose, corners of
the eyes."""

EXPRESSIVE: Final = tuple(
    sorted({*UPPER_LIP, *LOWER_LIP, *RIGHT_EYE, *LEFT_EYE, *RIGHT_BROW, *LEFT_BROW} - set(RIGID))
)
"""Vertices of lips, lids and brows."""


def pose_difference(first_N3: ArrayLike, second_N3: ArrayLike) -> Values:
    """Length of the difference of (yaw, pitch, roll) in degrees, shape (N,), as published for head pose.

    Angles are compared the short way round. Raises `ValueError` for other shapes and values not finite.
    """
    first, second = _rows(first_N3, second_N3, "angles", (3,))
    turned = (first - second + 180.0) % 360.0 - 180.0
    return np.linalg.norm(turned, axis=1)


def expression_coefficient_difference(first_NE: ArrayLike, second_NE: ArrayLike) -> Values:
    """Euclidean distance of the expression coefficients of a morphable face model, shape (N,).

    Identity and pose have coefficients of their own there, so neither counts. Raises `ValueError` for shapes
    that differ and values that are not finite.
    """
    first, second = _rows(first_NE, second_NE, "expression coefficients", None)
    return np.linalg.norm(first - second, axis=1)


def expression_mesh_difference(mesh_N478x3: ArrayLike, reference_N478x3: ArrayLike) -> Values:
    """RMS distance of lips, lids and brows between two meshes in inter-ocular distances, shape (N,).

    Each mesh is laid on its reference by the similarity transform (Umeyama 1991) that fits the vertices which
    hardly move, so place, size and pose drop out. The shape of the face does not: two people who make the
    same face still differ.

    Args:
        mesh_N478x3: meshes in pixels of their pictures, whatever the size.
        reference_N478x3: the meshes they are compared with, in pixels of theirs.

    Raises:
        ValueError: another shape, a value that is not finite, or a mesh that is a single point.
    """
    meshes, references = _rows(mesh_N478x3, reference_N478x3, "meshes", (478, 3))
    differences = np.empty(len(meshes))
    for row, (mesh, reference) in enumerate(zip(meshes, references, strict=True)):
        scale, rotation, shift = _similarity(mesh[list(RIGID)], reference[list(RIGID)])
        placed = scale * mesh[list(EXPRESSIVE)] @ rotation.T + shift
        squared = ((placed - reference[list(EXPRESSIVE)]) ** 2).sum(axis=1).mean()
        eyes = [reference[list(contour)].mean(axis=0) for contour in (RIGHT_EYE, LEFT_EYE)]
        differences[row] = np.sqrt(squared) / np.linalg.norm(eyes[1] - eyes[0])
    return differences


def _similarity(points_P3: Values, onto_P3: Values) -> tuple[float, Values, Values]:
    """Scale, rotation (3, 3) and shift (3,) that bring points onto others with the least squared error."""
    centre, onto_centre = points_P3.mean(axis=0), onto_P3.mean(axis=0)
    points, onto = points_P3 - centre, onto_P3 - onto_centre
    spread = float((points**2).sum())
    if spread == 0.0 or not onto.any():
        raise ValueError("a mesh whose points all coincide has no pose")
    left, singular, right = np.linalg.svd(onto.T @ points)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * signs @ right
    scale = float((singular * signs).sum()) / spread
    return scale, rotation, onto_centre - scale * rotation @ centre


def _rows(
    first: ArrayLike, second: ArrayLike, what: str, shape: tuple[int, ...] | None
) -> tuple[Values, Values]:
    arrays = [np.asarray(values, np.float64) for values in (first, second)]
    shapes = [array.shape for array in arrays]
    if shapes[0] != shapes[1] or arrays[0].ndim < 2 or (shape is not None and shapes[0][1:] != shape):
        wanted = "(N, E)" if shape is None else f"(N, {', '.join(map(str, shape))})"
        raise ValueError(f"{what} must both be {wanted}, got {shapes[0]} and {shapes[1]}")
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(f"{what} hold a value that is not finite")
    return arrays[0], arrays[1]
