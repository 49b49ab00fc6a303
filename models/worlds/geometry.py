"""The surface of the head: one person's shape under one photograph's expression.

The head is a closed sleeve of points (theta, y): `theta` runs round the head with 0 at the nose, `y` from the
chin up to the crown. Every feature is a smooth bump on it. Painted features (eyes, lips, brows) live in the
same (x, y) coordinates of the surface, so a landmark is exact wherever the surface is.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.worlds.numeric import bell, lerp, smooth_noise, smoothstep

CROWN = 1.13  # y of the top of every skull
EAR_LEVEL = 0.10  # y where the skull is widest; also where the jaw line starts
CROP_FACE, CROP_PORTRAIT, CROP_BUST = 0, 1, 2
CROP_CENTRE_Y, CROP_CENTRE_Z = -0.28, 0.45  # the point of the head in the middle of a face crop
HAIR_SHORT, HAIR_PARTED, HAIR_FRINGE, HAIR_OPEN = 0, 1, 2, 3

# What one person looks like in one photograph; lengths in face units.
FACE_FIELDS = (
    "jaw_width", "cheek_width", "forehead_width", "chin_y", "chin_prominence", "cheek_prominence",
    "eye_x", "eye_y", "eye_width", "eye_height", "eye_tilt", "iris_radius", "iris_dx", "iris_y",
    "brow_y", "brow_thickness", "brow_tilt", "brow_arch", "brow_ridge",
    "nose_y", "nose_width", "nose_prominence", "nose_bridge",
    "mouth_y", "mouth_width", "upper_lip", "lower_lip", "mouth_gap", "corner_rise", "ear_size", "hair_volume",
)  # fmt: skip
FACE_DTYPE = np.dtype([(name, np.float64) for name in FACE_FIELDS])


@njit(error_model="numpy")
def shape_face(identity, attribute, face):
    """Fill one `FACE_DTYPE` record from an identity and an attribute record."""
    opening = attribute.mouth_open
    smile = attribute.smile
    face.jaw_width = identity.jaw_width
    face.cheek_width = identity.cheek_width
    face.forehead_width = identity.forehead_width
    face.chin_y = -identity.chin_length - 0.10 * opening
    face.chin_prominence = identity.chin_prominence
    face.cheek_prominence = identity.cheek_prominence + 0.03 * max(smile, 0.0)
    face.eye_x = identity.eye_spacing
    face.eye_y = identity.eye_level
    face.eye_width = identity.eye_width
    face.eye_height = identity.eye_height * (1.0 - 0.85 * attribute.blink) * (1.0 - 0.12 * max(smile, 0.0))
    face.eye_tilt = identity.eye_tilt
    # Human irises differ little in size; a third of the eye's width follows the eye.
    face.iris_radius = 0.055 + 0.12 * identity.eye_width
    face.iris_dx = 0.40 * identity.eye_width * attribute.gaze_x
    face.iris_y = face.eye_y + 0.30 * face.eye_height * attribute.gaze_y + 0.06 * face.eye_height
    face.brow_y = face.eye_y + identity.brow_distance + 0.045 * attribute.brow_raise
    face.brow_thickness = identity.brow_thickness
    face.brow_tilt = identity.brow_tilt + 0.22 * attribute.frown
    face.brow_arch = identity.brow_arch
    face.brow_ridge = identity.brow_ridge
    face.nose_y = face.eye_y - identity.nose_length
    face.nose_width = identity.nose_width * (1.0 + 0.07 * max(smile, 0.0))
    face.nose_prominence = identity.nose_prominence
    face.nose_bridge = identity.nose_bridge
    # The chin must stay below the lower lip even for a long nose over a short chin.
    lowest = face.chin_y + 0.26 + 0.10 * opening
    face.mouth_y = max(face.nose_y - identity.mouth_distance, lowest) + 0.015 * smile
    face.mouth_width = identity.mouth_width * (1.0 + 0.20 * smile - 0.08 * opening)
    face.upper_lip = identity.upper_lip * (1.0 - 0.18 * max(smile, 0.0))
    face.lower_lip = identity.lower_lip * (1.0 - 0.12 * max(smile, 0.0))
    face.mouth_gap = 0.010 + 0.16 * opening
    face.corner_rise = 0.085 * smile
    face.ear_size = identity.ear_size
    style = int(attribute.hair_style)
    face.hair_volume = 0.07 if style == HAIR_SHORT else 0.10


@njit(error_model="numpy")
def skull_section(face, y):
    """Half width of the bare skull at height y, and how far its axis lies in front of the head's."""
    if y > EAR_LEVEL:
        share = min((y - EAR_LEVEL) / (CROWN - EAR_LEVEL), 1.0)
        width = lerp(face.cheek_width, face.forehead_width, smoothstep(0.0, 0.75, share))
        return width * (1.0 - share**2.7) ** 0.46, 0.0
    share = min((EAR_LEVEL - y) / (EAR_LEVEL - face.chin_y), 1.0)
    width = lerp(face.cheek_width, face.jaw_width, smoothstep(0.12, 0.80, share))
    return width * (1.0 - share**3.4) ** 0.5, 0.26 * smoothstep(0.15, 1.0, share)


@njit(error_model="numpy")
def nose_height(face, x, y):
    """How far the nose stands out of the face at (x, y)."""
    root = face.eye_y + 0.05
    if y > root + 0.12 or y < face.nose_y - 0.2 or abs(x) > 0.45:
        return 0.0
    along = max((root - y) / (root - face.nose_y), 0.0)
    if along < 0.92:
        ridge = lerp(face.nose_bridge, face.nose_prominence, (along / 0.92) ** 1.15)
    else:
        ridge = face.nose_prominence * smoothstep(1.27, 0.95, along)
    breadth = lerp(0.060, 0.030 + 0.42 * face.nose_width, smoothstep(0.25, 0.95, along))
    height = ridge * bell(x, breadth) * smoothstep(root + 0.10, root - 0.10, y)
    wings = bell(abs(x) - 0.76 * face.nose_width, 0.045) * bell(y - face.nose_y - 0.005, 0.058)
    return height + 0.085 * wings


@njit(error_model="numpy")
def relief(face, x, y):
    """Height of the facial features over the bare skull at (x, y) of the front."""
    side = abs(x)
    height = nose_height(face, x, y)
    height -= 0.085 * bell(side - face.eye_x, 0.125) * bell(y - face.eye_y, 0.095)
    # The eyeball fills its socket.
    height += 0.035 * bell(side - face.eye_x, 0.095) * bell(y - face.eye_y, 0.070)
    height += (
        (0.02 + face.brow_ridge) * bell(side - face.eye_x + 0.02, 0.19) * bell(y - face.brow_y + 0.02, 0.07)
    )
    height += face.cheek_prominence * bell(side - 0.43, 0.17) * bell(y + 0.13, 0.15)
    height += 0.050 * bell(x, face.mouth_width * 0.85) * bell(y - face.mouth_y, 0.11)
    upper = y - face.mouth_y - 0.55 * face.upper_lip
    lower = y - face.mouth_y + 0.60 * face.lower_lip + 0.5 * face.mouth_gap
    lips = 0.45 * face.upper_lip * bell(upper, 0.030) + 0.55 * face.lower_lip * bell(lower, 0.034)
    height += lips * bell(x, face.mouth_width * 0.55)
    height -= 0.045 * bell(x, 0.16) * bell(y - face.mouth_y + face.lower_lip + 0.085, 0.045)
    height += (0.03 + face.chin_prominence) * bell(x, 0.16) * bell(y - face.chin_y - 0.15, 0.10)
    return height


@njit(error_model="numpy")
def surface_point(face, theta, y):
    """The point (x, y, z) of the bare face at angle theta and height y."""
    width, forward = skull_section(face, y)
    x = width * math.sin(theta)
    cosine = math.cos(theta)
    if cosine <= 0.0:
        return x, y, width * 1.22 * cosine + forward
    # A flatter front than an ellipse: real faces turn to the side late and quickly.
    z = width * (1.02 * cosine - 0.06 * math.sin(2.0 * theta) ** 2) + forward
    return x, y, z + relief(face, x, y) * smoothstep(0.0, 0.45, cosine)


@njit(error_model="numpy")
def painted_point(face, x, y):
    """The point of the front surface that carries the painted position (x, y)."""
    width, _ = skull_section(face, y)
    sine = x / max(width, 1e-6)
    return surface_point(face, math.asin(min(max(sine, -0.999), 0.999)), y)


@njit(error_model="numpy")
def hair_depth(attribute, theta, x, y):
    """How far inside the hair (theta, y) lies, face units; negative on bare skin."""
    turn = abs(theta)
    if turn < 0.92 and y < 0.30:
        return -0.20  # no style comes so far down over the face
    style = int(attribute.hair_style)
    temple, nape = 0.22, -0.42
    if style == HAIR_SHORT:
        front = 0.74 - 0.05 * math.cos(3.0 * theta)
    elif style == HAIR_PARTED:
        front = 0.58 + 0.22 * smoothstep(-0.50, 0.42, x) - 0.10 * smoothstep(0.42, 0.75, x)
    elif style == HAIR_FRINGE:
        front = 0.58 + 0.02 * math.cos(9.0 * theta)
        temple, nape = -0.30, -0.75
    else:
        front = 0.80 - 0.30 * smoothstep(0.15, 0.95, turn)
        temple, nape = -0.30, -0.75
    line = front - (front - temple) * smoothstep(0.92, 1.34, turn)
    line -= (temple - nape) * smoothstep(1.62, 1.90, turn)
    depth = y - line
    if depth < -0.13 or depth > 0.20:
        return depth  # so far from the hair's edge that its raggedness does not matter
    return depth + 0.035 * (smooth_noise(theta * 34.0, y * 2.0, 11) - 0.5)


@njit(error_model="numpy")
def head_point(face, attribute, theta, y):
    """The outer point of the head, hair included, at angle theta and height y."""
    x, height, z = surface_point(face, theta, y)
    depth = hair_depth(attribute, theta, x, y)
    if depth <= 0.0:
        return x, height, z
    # Full over the skull, flat along the jaw and the neck.
    lift = face.hair_volume * smoothstep(0.0, 0.16, depth) * smoothstep(-0.45, 0.15, y)
    crown = max(y, 0.0) / CROWN
    return x * (1.0 + lift), height + lift * crown * crown, z * (1.0 + lift)


@njit(error_model="numpy")
def head_rotation(attribute):
    """The 3 by 3 rotation from head to camera: roll after pitch after yaw."""
    cos_yaw, sin_yaw = math.cos(attribute.yaw), math.sin(attribute.yaw)
    cos_pitch, sin_pitch = math.cos(attribute.pitch), math.sin(attribute.pitch)
    cos_roll, sin_roll = math.cos(attribute.roll), math.sin(attribute.roll)
    rotation = np.empty((3, 3))
    rotation[0, 0] = cos_roll * cos_yaw - sin_roll * sin_pitch * sin_yaw
    rotation[0, 1] = -sin_roll * cos_pitch
    rotation[0, 2] = cos_roll * sin_yaw + sin_roll * sin_pitch * cos_yaw
    rotation[1, 0] = sin_roll * cos_yaw + cos_roll * sin_pitch * sin_yaw
    rotation[1, 1] = cos_roll * cos_pitch
    rotation[1, 2] = sin_roll * sin_yaw - cos_roll * sin_pitch * cos_yaw
    rotation[2, 0] = -cos_pitch * sin_yaw
    rotation[2, 1] = sin_pitch
    rotation[2, 2] = cos_pitch * cos_yaw
    return rotation


@njit(error_model="numpy")
def camera_frame(attribute, size):
    """Pixels per face unit and the pixel position of the head's centre, for a square picture.

    A face crop is centred on the face as turned, like a detector's; portrait and bust on the head.
    """
    crop = int(attribute.crop)
    if crop == CROP_FACE:
        scale = 0.40 * 1.38 * attribute.scale
        rotation = head_rotation(attribute)
        x = rotation[0, 1] * CROP_CENTRE_Y + rotation[0, 2] * CROP_CENTRE_Z
        y = rotation[1, 1] * CROP_CENTRE_Y + rotation[1, 2] * CROP_CENTRE_Z
        across, down = 0.5 - scale * x, 0.5 + scale * y
    elif crop == CROP_BUST:
        scale, across, down = 0.40 * 0.72 * attribute.scale, 0.5, 0.44
    else:
        scale, across, down = 0.40 * attribute.scale, 0.5, 0.51
    return size * scale, size * (across + attribute.shift_x), size * (down + attribute.shift_y)
