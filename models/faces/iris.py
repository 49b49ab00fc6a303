"""Iris points and the openness of the eyes, from the mesh."""

import numpy as np

from models.faces.images import Points, require_points
from models.faces.topology import LEFT_EYE, LEFT_IRIS, RIGHT_EYE, RIGHT_IRIS

_UPPER_LID = slice(1, 8)
_LOWER_LID = slice(9, 16)

OPEN_EYE_RATIO = 0.15
"""Lid gap over eye width below which an eye counts as shut; relaxed open eyes measured 0.22 to 0.24."""


def iris_from_mesh(points_478x3: Points) -> Points:
    """The ten iris points, (10, 2) float32 pixels.

    Rows 0..4 are the iris on the picture's left (the subject's right eye), rows 5..9 the other: centre, then
    the rim to the picture's right, top, left and bottom.

    The mesh gives these points for a closed eye as well, behind the lid; `eye_openness` tells.

    Raises:
        ValueError: wrong shape or a coordinate that is not finite.
    """
    return require_points(points_478x3, (478, 3), "points_478x3")[[*RIGHT_IRIS, *LEFT_IRIS], :2]


def eye_openness(points_478x3: Points) -> Points:
    """Gap between the lids over the width of the eye, for both eyes, (2,) float32, the picture's left eye
    first.

    The gap is the mean 3D distance of facing lid points, the width the 3D distance of the corners, so a
    turned head changes the ratio little.
    """
    points = require_points(points_478x3, (478, 3), "points_478x3")
    ratios = []
    for contour in (RIGHT_EYE, LEFT_EYE):
        lids = points[list(contour)]
        gap = np.linalg.norm(lids[_UPPER_LID] - lids[_LOWER_LID][::-1], axis=1).mean()
        ratios.append(gap / np.linalg.norm(lids[0] - lids[8]))
    return np.array(ratios, np.float32)


def eyes_open(points_478x3: Points) -> tuple[bool, bool]:
    """Whether each eye is open (`OPEN_EYE_RATIO`), the picture's left eye first."""
    right, left = eye_openness(points_478x3)
    return bool(right >= OPEN_EYE_RATIO), bool(left >= OPEN_EYE_RATIO)
