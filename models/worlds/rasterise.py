"""Meshes of the head, the ears and the arms of glasses, and the z-buffer they are drawn into."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.worlds.geometry import CROWN, EAR_LEVEL, head_point, skull_section
from models.worlds.numeric import smoothstep
from models.worlds.scenery import GLASSES_CURVE, GLASSES_FRONT, HINGE_X, HINGE_Y

COARSE_HEAD, FINE_HEAD = (63, 51), (93, 75)  # rows and columns of the head's mesh
COARSE_REACH = 160  # the coarse mesh serves pictures of up to so many samples a side
CHANNELS = 6  # of a sample: two of the surface's own, normal, painted x
EAR_ROWS, EAR_COLUMNS = 9, 17
THETA_REACH = 2.6  # radians; the back of the head is never seen
FAR = -1.0e9
# What a sample of the buffer shows.
NOTHING, HEAD, RIGHT_EAR_DISC, LEFT_EAR_DISC, GLASSES_ARM = 0, 1, 2, 3, 4


@njit(error_model="numpy")
def head_mesh(face, attribute, size):
    """Points (rows, columns, 3) of the head in face units, and (theta, y, painted x) of each.

    The painted x goes on growing past the side of the head, so that nothing of the front shows there.
    """
    rows, columns = COARSE_HEAD if size <= COARSE_REACH else FINE_HEAD
    points = np.empty((rows, columns, 3))
    places = np.empty((rows, columns, 3))
    for row in range(rows):
        share = row / (rows - 1)
        # Rows gather towards both poles, where the outline bends fastest.
        bent = 0.72 * share + 0.28 * (0.5 - 0.5 * math.cos(math.pi * share))
        y = face.chin_y + (CROWN - face.chin_y) * bent
        width, _ = skull_section(face, y)
        for column in range(columns):
            spread = 2.0 * column / (columns - 1) - 1.0
            theta = THETA_REACH * (0.5 * spread + 0.5 * spread**3)  # columns gather at the nose
            points[row, column] = head_point(face, attribute, theta, y)
            places[row, column, 0] = theta
            places[row, column, 1] = y
            x = width * math.sin(theta)
            if abs(theta) > 0.5 * math.pi:
                x = math.copysign(2.0 * width - abs(x), theta)
            places[row, column, 2] = x
    return points, places


@njit(error_model="numpy")
def ear_mesh(face, side):
    """Points and disc places of one ear; `side` is -1 for the left of the picture, 1 for the right."""
    points = np.empty((EAR_ROWS, EAR_COLUMNS, 3))
    places = np.zeros((EAR_ROWS, EAR_COLUMNS, 3))
    level = EAR_LEVEL - 0.17
    width, _ = skull_section(face, level)
    for row in range(EAR_ROWS):
        radius = row / (EAR_ROWS - 1)
        for column in range(EAR_COLUMNS):
            angle = 2.0 * math.pi * column / (EAR_COLUMNS - 1)
            across, up = radius * math.cos(angle), radius * math.sin(angle)
            lobe = 1.0 - 0.22 * smoothstep(0.0, -1.0, up)
            reach = 0.155 * face.ear_size * (across * lobe + 0.55)
            rim = 0.035 * smoothstep(0.55, 0.95, radius)
            points[row, column, 0] = side * (width * 0.955 + 0.70 * reach + 0.3 * rim)
            points[row, column, 1] = level + 0.235 * face.ear_size * up + 0.02 * across
            points[row, column, 2] = -0.12 - 0.72 * reach + rim
            # Wound so that both ears face the camera.
            places[row, column, 0] = across
            places[row, column, 1] = up
    return points, places


@njit(error_model="numpy")
def _normals(points):
    """Unit normals of a mesh, from the differences of its neighbours along both ways."""
    rows, columns, _ = points.shape
    normals = np.empty_like(points)
    for row in range(rows):
        above, below = min(row + 1, rows - 1), max(row - 1, 0)
        for column in range(columns):
            after, before = min(column + 1, columns - 1), max(column - 1, 0)
            ax = points[row, after, 0] - points[row, before, 0]
            ay = points[row, after, 1] - points[row, before, 1]
            az = points[row, after, 2] - points[row, before, 2]
            bx = points[above, column, 0] - points[below, column, 0]
            by = points[above, column, 1] - points[below, column, 1]
            bz = points[above, column, 2] - points[below, column, 2]
            nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            normals[row, column] = (nx / length, ny / length, nz / length)
    return normals


@njit(error_model="numpy")
def draw_mesh(points, places, rotation, frame, part, two_sided, depth, samples, parts):
    """Draw a mesh into the buffers: nearest depth, `samples` = (u, v, normal, w) and part per sample."""
    scale, centre_x, centre_y = frame
    size = depth.shape[0]
    rows, columns, _ = points.shape
    normals = _normals(points)
    screen = np.empty((rows, columns, 3))
    channels = np.empty((rows, columns, CHANNELS))
    for row in range(rows):
        for column in range(columns):
            for axis in range(3):
                place = 0.0
                normal = 0.0
                for k in range(3):
                    place += rotation[axis, k] * points[row, column, k]
                    normal += rotation[axis, k] * normals[row, column, k]
                screen[row, column, axis] = place
                channels[row, column, 2 + axis] = normal
            if two_sided and channels[row, column, 4] < 0.0:
                for axis in range(3):
                    channels[row, column, 2 + axis] *= -1.0
            screen[row, column, 0] = centre_x + scale * screen[row, column, 0]
            screen[row, column, 1] = centre_y - scale * screen[row, column, 1]
            channels[row, column, 0] = places[row, column, 0]
            channels[row, column, 1] = places[row, column, 1]
            channels[row, column, 5] = places[row, column, 2]
    for row in range(rows - 1):
        for column in range(columns - 1):
            for half in range(2):
                ra, ca = (row, column) if half == 0 else (row + 1, column + 1)
                rb, cb = (row, column + 1) if half == 0 else (row + 1, column)
                rc, cc = (row + 1, column) if half == 0 else (row, column + 1)
                x0, y0, z0 = screen[ra, ca, 0], screen[ra, ca, 1], screen[ra, ca, 2]
                x1, y1, z1 = screen[rb, cb, 0], screen[rb, cb, 1], screen[rb, cb, 2]
                x2, y2, z2 = screen[rc, cc, 0], screen[rc, cc, 1], screen[rc, cc, 2]
                area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
                # Screen y points down, so a face towards the camera has negative area.
                if area > -1e-9 and not (two_sided and area > 1e-9):
                    continue
                left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
                right = min(size - 1, math.floor(max(x0, x1, x2) - 0.5))
                top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
                bottom = min(size - 1, math.floor(max(y0, y1, y2) - 0.5))
                inverse = 1.0 / area
                for line in range(top, bottom + 1):
                    for pixel in range(left, right + 1):
                        px, py = pixel + 0.5, line + 0.5
                        w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * inverse
                        w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * inverse
                        w0 = 1.0 - w1 - w2
                        if w0 < -1e-7 or w1 < -1e-7 or w2 < -1e-7:
                            continue
                        z = w0 * z0 + w1 * z1 + w2 * z2
                        if z <= depth[line, pixel]:
                            continue
                        depth[line, pixel] = z
                        parts[line, pixel] = part
                        for k in range(CHANNELS):
                            samples[line, pixel, k] = (
                                w0 * channels[ra, ca, k] + w1 * channels[rb, cb, k] + w2 * channels[rc, cc, k]
                            )


@njit(error_model="numpy")
def arm_mesh(side):
    """One arm of the glasses, from the hinge back to the ear: a strip bent outwards."""
    points = np.empty((2, 9, 3))
    for row in range(2):
        for column in range(9):
            share = column / 8.0
            points[row, column, 0] = side * (HINGE_X + 0.27 * math.sqrt(share))
            points[row, column, 1] = HINGE_Y - 0.03 * share + (row - 0.5) * 0.042
            points[row, column, 2] = GLASSES_FRONT - GLASSES_CURVE * HINGE_X**2 - 0.80 * share
    return points, np.zeros((2, 9, 3))
