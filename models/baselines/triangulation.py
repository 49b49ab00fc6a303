"""Piecewise affine warps between two sets of points: the geometry of classical face swapping."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, Mask, Points

SMALLEST_TRIANGLE = 0.25
"""Triangles of less area in the target hold no pixel centre worth drawing, px²."""


class DegenerateGeometry(ValueError):
    """Points or masks from which no warp can be made; the message says which."""


@dataclass(frozen=True)
class WarpedPicture:
    """A picture on another's points: `image` uint8 RGB (H, W, 3), valid where `covered` (H, W) is true."""

    image: Image
    covered: Mask


def triangulate(points_N2: Points) -> NDArray[np.int64]:
    """Delaunay triangles over the points as (T, 3) indices; points that coincide count once.

    Raises:
        DegenerateGeometry: the points lie on a line or in one place.
    """
    low, high = points_N2.min(axis=0), points_N2.max(axis=0)
    left, top = np.floor(low) - 2
    width, height = np.ceil(high - low) + 5
    subdivision = cv2.Subdiv2D((int(left), int(top), int(width), int(height)))
    index: dict[tuple[float, float], int] = {}
    for number, point in enumerate(points_N2.astype(np.float32)):
        place = (float(point[0]), float(point[1]))
        if place not in index:
            index[place] = number
            subdivision.insert(place)
    corners_T32 = np.asarray(subdivision.getTriangleList(), np.float32).reshape(-1, 3, 2)
    triangles = [
        [index[float(x), float(y)] for x, y in corners]
        # triangles with a corner of the subdivision's own frame have a point that is none of ours
        for corners in corners_T32
        if all((float(x), float(y)) in index for x, y in corners)
    ]
    found = np.array(triangles, np.int64).reshape(-1, 3)
    found = found[np.abs(_areas(points_N2[found])) >= SMALLEST_TRIANGLE]
    if not len(found):
        raise DegenerateGeometry(
            f"{len(points_N2)} points span no triangle: they lie on a line or in one place"
        )
    return found


def warp_by_points(
    image: Image, source_N2: Points, target_N2: Points, target_size: tuple[int, int]
) -> WarpedPicture:
    """Warp a picture so that its points come to lie on the target's, affine in each triangle of the target.

    Args:
        image: the source's picture, uint8 RGB (H, W, 3), of any size.
        source_N2: points in pixels of `image`; the first pixel's centre lies at (0.5, 0.5).
        target_N2: the same points in the target.
        target_size: (height, width) of the result.

    Pixels whose place in the source lies outside its picture are not covered.

    Raises:
        DegenerateGeometry: the target's points span no triangle, or the source's no area.
    """
    height, width = target_size
    source_N2, target_N2 = source_N2 - 0.5, target_N2 - 0.5  # to OpenCV's centres at whole numbers
    triangles = triangulate(target_N2)
    if np.abs(_areas(source_N2[triangles])).sum() < SMALLEST_TRIANGLE:
        raise DegenerateGeometry("the source's points span no area: they lie on a line or in one place")
    label = np.full((height, width), -1, np.int32)
    for number, corners in enumerate(target_N2[triangles]):
        # 4 fractional bits: neighbours share their edge to 1/16 px, and one of them owns it
        cv2.fillConvexPoly(label, np.round(corners * 16).astype(np.int32), number, cv2.LINE_8, 4)
    covered = label >= 0
    maps_T23 = np.stack([_affine(target_N2[three], source_N2[three]) for three in triangles])
    rows, columns = np.nonzero(covered)
    places_P3 = np.stack([columns, rows, np.ones_like(rows)], axis=1).astype(np.float64)
    source_P2 = np.einsum("pij,pj->pi", maps_T23[label[covered]], places_P3)
    field = np.full((height, width, 2), -1.0, np.float32)
    field[covered] = source_P2
    inside = (field >= 0).all(axis=2) & (field[..., 0] <= image.shape[1] - 1)
    inside &= field[..., 1] <= image.shape[0] - 1
    warped = cv2.remap(image, field[..., 0], field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return WarpedPicture(np.asarray(warped, np.uint8), covered & inside)


def hull_area(points_N2: Points) -> float:
    """Area of the convex hull of the points, px²."""
    return float(cv2.contourArea(cv2.convexHull(points_N2.astype(np.float32))))


def _areas(corners_T32: NDArray) -> NDArray[np.float64]:
    a, b, c = np.moveaxis(corners_T32.astype(np.float64), 1, 0)
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def _affine(from_32: NDArray, to_32: NDArray) -> NDArray[np.floating]:
    """The matrix (2, 3) that takes three points to three others."""
    homogeneous = np.column_stack([from_32.astype(np.float64), np.ones(3)])
    return np.linalg.solve(homogeneous, to_32.astype(np.float64)).T
