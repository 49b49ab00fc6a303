"""Everything round the face: hair, ears, glasses, neck, clothes, background. None of it knows the identity.

That is what makes `render(identity, attributes)` an exact swap: outside the head, a photograph is a function
of its attributes alone.
"""

from __future__ import annotations

import math

from numba import njit

from models.worlds.geometry import HAIR_FRINGE, HAIR_OPEN
from models.worlds.numeric import bell, clamp, mix, scaled, smooth_noise, smoothstep, tinted
from models.worlds.paint import BACKGROUND, CLOTH, GLASSES, HAIR, NECK, skin_tone

GLASSES_ROUND = 1
GLASSES_FRONT = 0.93  # z of the glasses' bridge in front of the head's centre, face units
GLASSES_CURVE = 0.28  # the lenses bend backwards by this times x squared
LENS_X, LENS_Y = 0.33, 0.085
ROUND_RADIUS = 0.215
RECTANGLE_WIDTH, RECTANGLE_HEIGHT, RECTANGLE_CORNER = 0.235, 0.155, 0.06
FRAME = 0.022
HINGE_X, HINGE_Y = 0.60, 0.13


@njit(error_model="numpy")
def paint_hair(attribute, theta, y):
    """Hair on the head at (theta, y): strands, locks and a band of gloss."""
    strands = smooth_noise(theta * 46.0 + 1.5 * y, y * 2.2, 31)
    locks = smooth_noise(theta * 9.0 + 0.8 * y, y * 1.3, 32)
    tone = 0.66 + 0.34 * strands + 0.30 * (locks - 0.5)
    colour = scaled((attribute.hair_red, attribute.hair_green, attribute.hair_blue), tone)
    return mix(colour, (1.0, 0.97, 0.92), 0.14 * strands * bell(y - 0.95, 0.10))


@njit(error_model="numpy")
def has_long_hair(attribute):
    """Whether hair falls behind the head and covers the ears."""
    style = int(attribute.hair_style)
    return style in (HAIR_FRINGE, HAIR_OPEN)


@njit(error_model="numpy")
def paint_ear(attribute, across, up):
    """An ear at (across, up) of its disc, both in [-1, 1]: rim, bowl and lobe."""
    radius = math.hypot(across, up)
    bowl = smoothstep(0.72, 0.45, math.hypot(across / 0.95, (up - 0.02) / 0.95))
    rim = smoothstep(0.75, 0.90, radius)
    shade = 1.0 - 0.34 * bowl * (1.0 - 0.5 * bell(across - 0.15, 0.18)) + 0.04 * rim
    return tinted(skin_tone(attribute), shade, shade * 0.93, shade * 0.92)


@njit(error_model="numpy")
def lens_distance(attribute, x, y):
    """Signed distance of (x, y) on the glasses' front from the nearer lens's edge, negative inside."""
    across = abs(x) - LENS_X
    up = y - LENS_Y
    if int(attribute.glasses) == GLASSES_ROUND:
        return math.hypot(across, up) - ROUND_RADIUS
    over_x = abs(across) - RECTANGLE_WIDTH + RECTANGLE_CORNER
    over_y = abs(up) - RECTANGLE_HEIGHT + RECTANGLE_CORNER
    outside = math.hypot(max(over_x, 0.0), max(over_y, 0.0))
    return outside + min(max(over_x, over_y), 0.0) - RECTANGLE_CORNER


@njit(error_model="numpy")
def paint_glasses(attribute, x, y, behind):
    """Glasses at (x, y) of their front over the colour `behind`; class 0 where there are none."""
    if int(attribute.glasses) == 0 or abs(x) > 0.64 or abs(y - LENS_Y) > 0.26:
        return behind, BACKGROUND
    distance = lens_distance(attribute, x, y)
    bridge = abs(x) < LENS_X - ROUND_RADIUS + 0.03 and abs(y - LENS_Y - 0.05 + 0.25 * x * x) < 0.017
    hinge = abs(x) > 0.53 and abs(y - HINGE_Y) < 0.022 and distance > 0.0 and abs(x) < HINGE_X + 0.01
    if abs(distance) < FRAME or bridge or hinge:
        gloss = 0.25 * smoothstep(0.35, 1.0, (y - LENS_Y) / 0.2)
        frame = (attribute.glasses_red, attribute.glasses_green, attribute.glasses_blue)
        return mix(frame, (1.0, 1.0, 1.0), gloss), GLASSES
    if distance < 0.0:
        streak = 0.10 * bell(abs(x) - LENS_X + 0.7 * (y - LENS_Y) - 0.03, 0.035)
        return mix(tinted(behind, 0.90, 0.92, 0.94), (1.0, 1.0, 1.0), 0.03 + streak), GLASSES
    return behind, BACKGROUND


@njit(error_model="numpy")
def paint_background(attribute, across, down):
    """The wall at (across, down), shares of the picture: two soft shapes over a vertical ramp."""
    seed = int(attribute.background_seed * 1000000.0)
    shapes = 0.7 * smooth_noise(across * 3.0, down * 3.0, seed) + 0.3 * smooth_noise(
        across * 7.0, down * 7.0, seed + 1
    )
    factor = 1.0 + attribute.background_contrast * 2.0 * (shapes - 0.5) + 0.16 * (0.5 - down)
    base = (attribute.background_red, attribute.background_green, attribute.background_blue)
    return scaled(base, factor)


@njit(error_model="numpy")
def _long_hair(attribute, x, y):
    """Opacity of the hair that hangs behind the head at (x, y), face units from the head's centre."""
    half = 0.96 if int(attribute.hair_style) == HAIR_FRINGE else 1.02
    end = -1.02 if int(attribute.hair_style) == HAIR_FRINGE else -1.36
    if y > 0.1:
        inside = 1.0 - math.hypot(x / half, (y - 0.1) / 1.16)
        return inside > 0.0
    flare = half * (1.0 + 0.06 * smooth_noise(y * 4.0, 1.5, 41) + 0.05 * (0.1 - y))
    ragged = end + 0.10 * smooth_noise(x * 14.0, 0.5, 42) + 0.30 * max(abs(x) - 0.6, 0.0)
    return abs(x) < flare and y > ragged


@njit(error_model="numpy")
def paint_scenery(attribute, x, y, across, down):
    """Colour, class and a stand-in normal (nx, ny, nz) of what lies behind the head.

    (x, y) are face units from the head's centre, unturned but for the head's roll; (across, down) are shares
    of the picture. The wall has normal (0, 0, 0): the key light does not reach it.
    """
    flat = (0.0, 0.0, 0.0)
    shift = 0.16 * math.sin(attribute.yaw)  # the neck stands behind a turned head's centre
    neck_x = x + shift
    shoulder = (
        -1.10 - 0.10 * neck_x * neck_x - 0.30 * max(abs(neck_x) - 0.55, 0.0) + 0.16 * bell(neck_x, 0.30)
    )
    collar = -1.02 - 0.55 * math.sqrt(max(0.20 - neck_x * neck_x, 0.0))
    if y < shoulder and y < collar + 0.03 and not (abs(neck_x) < 0.42 and y > collar):
        weave = 0.92 + 0.16 * smooth_noise(neck_x * 30.0, y * 30.0, 51)
        seam = 1.0 - 0.25 * bell(y - collar, 0.015) if abs(neck_x) < 0.45 else 1.0
        colour = scaled((attribute.cloth_red, attribute.cloth_green, attribute.cloth_blue), weave * seam)
        slope = clamp(neck_x / 1.5, -0.8, 0.8)
        return colour, CLOTH, (slope, 0.45, math.sqrt(max(0.8 - slope * slope, 0.05)))
    trunk = 0.40 + 0.30 * smoothstep(-0.90, -1.22, y) ** 2
    if abs(neck_x) < trunk and y < -0.35:
        # The head shades the neck, most right under the jaw.
        shade = 0.52 + 0.36 * smoothstep(-0.85, -1.30, y)
        round_off = clamp(neck_x / trunk, -0.98, 0.98)
        colour = tinted(scaled(skin_tone(attribute), shade), 1.0, 0.97, 0.96)
        return colour, NECK, (round_off, 0.0, math.sqrt(1.0 - round_off * round_off))
    if has_long_hair(attribute) and _long_hair(attribute, x, y):
        strands = smooth_noise(x * 34.0 + 1.5 * y, y * 1.6, 43)
        hair = (attribute.hair_red, attribute.hair_green, attribute.hair_blue)
        lean = clamp(x / 1.1, -0.9, 0.9)
        normal = (lean, 0.1, math.sqrt(1.0 - lean * lean))
        return scaled(hair, 0.50 + 0.36 * strands), HAIR, normal
    return paint_background(attribute, across, down), BACKGROUND, flat
