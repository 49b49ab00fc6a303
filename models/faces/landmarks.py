"""What the mesh says about a face as a whole: 68 landmarks, head pose and the distance between the eyes."""

import numpy as np

from models.faces.images import Points, require_points
from models.faces.topology import LANDMARKS_68, LEFT_EYE, RIGHT_EYE


def landmarks_68_from_mesh(points_478x3: Points) -> Points:
    """The 68 iBUG landmarks of a fitted mesh.

    Args:
        points_478x3: (478, 3) pixels.

    Returns:
        (68, 3) float32 in the same pixels; the first two columns are the picture coordinates. Order: jaw
        0..16 from the picture's left, brows 17..26, nose 27..35, eyes 36..47, outer lips 48..59, inner lips
        60..67.

    Raises:
        ValueError: wrong shape or a coordinate that is not finite.
    """
    return require_points(points_478x3, (478, 3), "points_478x3")[list(LANDMARKS_68)]


def eye_centres(points_478x3: Points) -> Points:
    """Centres of the two lid contours, (2, 2) pixels, the picture's left eye first.

    The mean of the contour, unlike the iris, does not move with the gaze.
    """
    points = require_points(points_478x3, (478, 3), "points_478x3")
    centres = [points[list(contour), :2].mean(axis=0) for contour in (RIGHT_EYE, LEFT_EYE)]
    return np.stack(centres).astype(np.float32)


def inter_ocular_px(points_478x3: Points) -> float:
    """Distance between the eye centres in pixels of the picture (not corrected for a turned head)."""
    right, left = eye_centres(points_478x3)
    return float(np.linalg.norm(left - right))


def head_pose(transform_4x4: Points) -> tuple[float, float, float]:
    """Yaw, pitch and roll of the head in degrees.

    The rotation is read as roll about the axis through the nose, then pitch, then yaw. Signs follow the
    picture:

    - yaw > 0: the nose points to the picture's right;
    - pitch > 0: the nose points up;
    - roll > 0: the head leans clockwise as seen in the picture.

    Args:
        transform_4x4: rigid transform from the canonical face (x right, y up, z to the camera) to the
            camera, as in `MeshFit.transform_4x4`. A uniform scale does no harm.

    Raises:
        ValueError: wrong shape, or values that are not finite.
    """
    matrix = require_points(transform_4x4, (4, 4), "transform_4x4").astype(np.float64)
    rotation = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    forward = rotation[:, 2]
    yaw = np.arctan2(forward[0], forward[2])
    pitch = np.arcsin(np.clip(forward[1], -1.0, 1.0))
    roll = -np.arctan2(rotation[1, 0], rotation[1, 1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))
