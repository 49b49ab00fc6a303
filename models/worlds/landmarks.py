"""Exact landmarks: the 68 points of iBUG 300-W and mediapipe's ten iris points, from the same surface.

The jaw line follows the head's own surface (as a 3D face model does) and not the outline seen in the
picture, so on a turned face the far jaw points may lie behind the cheek.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.worlds.geometry import (
    EAR_LEVEL,
    camera_frame,
    head_rotation,
    painted_point,
    skull_section,
    surface_point,
)
from models.worlds.paint import brow_line, lip_edges

# First index of each group in the iBUG order; the subject's right is on the left of the picture.
JAW, RIGHT_BROW_POINTS, LEFT_BROW_POINTS, NOSE_BRIDGE, NOSE_BASE = 0, 17, 22, 27, 31
RIGHT_EYE_POINTS, LEFT_EYE_POINTS, OUTER_LIPS, INNER_LIPS = 36, 42, 48, 60
LANDMARK_COUNT = 68
IRIS_COUNT = 10
JAW_THETA = 1.36  # radians: just before the outline of a frontal face


@njit(error_model="numpy")
def _jaw_height(face, angle):
    """Height where a ray from the middle of the ear line, `angle` off straight down, meets the outline."""
    low, high = face.chin_y, EAR_LEVEL
    for _ in range(30):
        middle = 0.5 * (low + high)
        width, _forward = skull_section(face, middle)
        if width * math.cos(angle) > (EAR_LEVEL - middle) * math.sin(angle):
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


@njit(error_model="numpy")
def _brows_and_nose(face, points):
    for index in range(5):
        outward = 0.185 - 0.0925 * index  # the right brow runs from the temple to the nose
        height = brow_line(face, outward)
        points[RIGHT_BROW_POINTS + index] = painted_point(face, -(face.eye_x + outward), height)
        height = brow_line(face, -outward)
        points[LEFT_BROW_POINTS + index] = painted_point(face, face.eye_x - outward, height)
    for index in range(4):
        points[NOSE_BRIDGE + index] = painted_point(
            face, 0.0, face.eye_y + (face.nose_y - face.eye_y) * index / 3.0
        )
    for index in range(5):
        across = (index - 2) * 0.45 * face.nose_width
        points[NOSE_BASE + index] = painted_point(face, across, face.nose_y - 0.085 + 0.012 * abs(index - 2))


@njit(error_model="numpy")
def _eyes(face, points):
    # Along the eye's axis (-1 inner, 1 outer corner) and share of the lid's height.
    outer_to_inner = ((1.0, 0.0), (0.36, 1.0), (-0.36, 1.0), (-1.0, 0.0), (-0.36, -0.72), (0.36, -0.72))
    inner_to_outer = ((-1.0, 0.0), (-0.36, 1.0), (0.36, 1.0), (1.0, 0.0), (0.36, -0.72), (-0.36, -0.72))
    for index in range(6):
        along, lid = outer_to_inner[index]
        outward = along * face.eye_width
        y = face.eye_y + face.eye_tilt * outward + lid * face.eye_height * (1.0 - along * along)
        points[RIGHT_EYE_POINTS + index] = painted_point(face, -(face.eye_x + outward), y)
        along, lid = inner_to_outer[index]
        outward = along * face.eye_width
        y = face.eye_y + face.eye_tilt * outward + lid * face.eye_height * (1.0 - along * along)
        points[LEFT_EYE_POINTS + index] = painted_point(face, face.eye_x + outward, y)


@njit(error_model="numpy")
def _mouth(face, points):
    for index in range(12):
        # 48 left corner, 51 middle of the upper lip, 54 right corner, 57 middle of the lower lip.
        across = -math.cos(math.pi * index / 6.0) * face.mouth_width
        outer_upper, _, _, outer_lower = lip_edges(face, across)
        y = outer_upper if index <= 6 else outer_lower
        points[OUTER_LIPS + index] = painted_point(face, across, y)
    for index in range(8):
        # 60 left, 62 middle of the upper edge, 64 right, 66 middle of the lower edge.
        across = -math.cos(math.pi * index / 4.0) * face.mouth_width * 0.82
        _, inner_upper, inner_lower, _ = lip_edges(face, across)
        y = 0.5 * (inner_upper + inner_lower)
        if index % 4 != 0:
            y = inner_upper if index < 4 else inner_lower
        points[INNER_LIPS + index] = painted_point(face, across, y)


@njit(error_model="numpy")
def place_landmarks(face, attribute, size, landmarks, iris, iris_radius):
    """Fill landmarks (68, 2), iris (10, 2) and iris_radius (2,), pixels of a `size` picture.

    Pixel centres lie at +0.5. Each eye has centre, right, top, left and bottom of the iris (right and left as
    seen in the picture), first the subject's right eye. The radius is that of the iris facing the camera.
    """
    rotation = head_rotation(attribute)
    scale, centre_x, centre_y = camera_frame(attribute, size)
    points = np.empty((LANDMARK_COUNT + IRIS_COUNT, 3))
    for index in range(17):
        y = _jaw_height(face, abs(index - 8) / 8.0 * 0.5 * math.pi)
        theta = 0.0 if index == 8 else math.copysign(JAW_THETA, index - 8)
        points[JAW + index] = surface_point(face, theta, y)
    _brows_and_nose(face, points)
    _eyes(face, points)
    _mouth(face, points)
    for eye in range(2):
        first = LANDMARK_COUNT + 5 * eye
        x = (2 * eye - 1) * face.eye_x + face.iris_dx
        radius = face.iris_radius
        points[first] = painted_point(face, x, face.iris_y)
        points[first + 1] = painted_point(face, x + radius, face.iris_y)
        points[first + 2] = painted_point(face, x, face.iris_y + radius)
        points[first + 3] = painted_point(face, x - radius, face.iris_y)
        points[first + 4] = painted_point(face, x, face.iris_y - radius)
        iris_radius[eye] = radius * scale
    for index in range(LANDMARK_COUNT + IRIS_COUNT):
        x, y = 0.0, 0.0
        for k in range(3):
            x += rotation[0, k] * points[index, k]
            y += rotation[1, k] * points[index, k]
        if index < LANDMARK_COUNT:
            landmarks[index, 0] = centre_x + scale * x
            landmarks[index, 1] = centre_y - scale * y
        else:
            iris[index - LANDMARK_COUNT, 0] = centre_x + scale * x
            iris[index - LANDMARK_COUNT, 1] = centre_y - scale * y
