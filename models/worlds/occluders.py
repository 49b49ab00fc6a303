"""What may stand between camera and face: a hand, a microphone, a scarf. None of it knows the identity.

An occluder belongs to the photograph, so it stays with the target of a swap. The parsing gives it the class
that CelebAMask-HQ gives it, background for hand and microphone and cloth for a scarf.
"""

from __future__ import annotations

import math

from numba import njit

from models.worlds.numeric import bell, clamp, mix, scaled, smooth_noise, smoothstep, tinted
from models.worlds.paint import BACKGROUND, CLOTH, skin_tone

NO_OCCLUDER, HAND, MICROPHONE, SCARF = 0, 1, 2, 3
FACE_PLANE = 0.70  # face units in front of the head's centre: where the occluder's place is fixed
MICROPHONE_RADIUS = 0.16


@njit(error_model="numpy")
def occluder_origin(attribute):
    """Where the middle of the face is seen, face units from the head's centre, before the head's roll."""
    return (
        FACE_PLANE * math.sin(attribute.yaw),
        -FACE_PLANE * math.sin(attribute.pitch) * math.cos(attribute.yaw),
    )


@njit(error_model="numpy")
def _limb(x, y, start_x, start_y, end_x, end_y, start_radius, end_radius):
    """A rounded limb seen from the front: share of radius from its axis, place along it, normal x and y."""
    axis_x, axis_y = end_x - start_x, end_y - start_y
    along = clamp(
        ((x - start_x) * axis_x + (y - start_y) * axis_y) / (axis_x * axis_x + axis_y * axis_y), 0.0, 1.0
    )
    radius = start_radius + (end_radius - start_radius) * along
    away_x = (x - start_x - axis_x * along) / radius
    away_y = (y - start_y - axis_y * along) / radius
    return math.sqrt(away_x * away_x + away_y * away_y), along, away_x, away_y


@njit(error_model="numpy")
def _paint_hand(attribute, x, y):
    """A hand at the cheek, its arm coming from below: (colour, covered, normal x, normal y)."""
    side = 1.0 if attribute.occluder_side >= 0.0 else -1.0
    x = x * side
    lift = 0.34 * attribute.occluder_height - 0.10
    skin = skin_tone(attribute)
    if x < 0.05 or y > 0.10 + lift:
        return skin, False, 0.0, 0.0
    # Fingers from the nearest to the middle of the face outwards, each before the next.
    for finger in range(4):
        root_x = 0.50 + 0.105 * finger
        tip_x = 0.33 + 0.135 * finger
        tip_y = lift - 0.38 + 0.10 * bell(finger - 1.6, 1.0) - 0.03 * finger
        far, along, nx, ny = _limb(x, y, root_x, lift - 0.86, tip_x, tip_y, 0.070, 0.054)
        if far < 1.0:
            shade = 1.0 - 0.38 * smoothstep(0.72, 1.0, far)
            knuckle = 1.0 - 0.14 * bell(along - 0.42, 0.035) - 0.10 * bell(along - 0.75, 0.03)
            colour = tinted(skin, shade * knuckle, shade * knuckle * 0.97, shade * knuckle * 0.95)
            nail = smoothstep(0.62, 0.46, far) * smoothstep(0.93, 0.97, along)
            return mix(colour, (0.93, 0.76, 0.72), 0.55 * nail), True, nx * side, ny
    far, along, nx, ny = _limb(x, y, 0.66, lift - 0.90, 0.74, lift - 1.20, 0.225, 0.185)
    if far < 1.0:
        return scaled(skin, 0.97 - 0.30 * smoothstep(0.75, 1.0, far)), True, 0.7 * nx * side, 0.7 * ny
    far, along, nx, ny = _limb(x, y, 0.76, lift - 1.25, 1.10, lift - 2.60, 0.165, 0.24)
    if far < 1.0:
        if along > 0.18:
            weave = 0.90 + 0.16 * smooth_noise(x * 28.0, y * 28.0, 61)
            cloth = (attribute.cloth_red, attribute.cloth_green, attribute.cloth_blue)
            return scaled(cloth, weave), True, 0.8 * nx * side, 0.8 * ny
        return scaled(skin, 0.95), True, 0.8 * nx * side, 0.8 * ny
    return skin, False, 0.0, 0.0


@njit(error_model="numpy")
def _paint_microphone(attribute, x, y):
    """A microphone held from below: (colour, covered, normal x, normal y)."""
    head_x = 0.32 * attribute.occluder_side
    head_y = -1.06 + 0.34 * attribute.occluder_height
    nx, ny = (x - head_x) / MICROPHONE_RADIUS, (y - head_y) / MICROPHONE_RADIUS
    body = (attribute.occluder_red, attribute.occluder_green, attribute.occluder_blue)
    if nx * nx + ny * ny < 1.0:
        # A grille: wires crossing at right angles, closer towards the ball's outline.
        wires = max(bell(math.sin(11.0 * nx), 0.32), bell(math.sin(11.0 * ny), 0.32))
        ring = bell(ny + 0.25, 0.10)
        grille = mix((0.20, 0.20, 0.21), (0.52, 0.52, 0.54), 0.65 * wires)
        return mix(grille, (0.62, 0.62, 0.64), 0.8 * ring), True, nx, ny
    if y < head_y:
        foot_x = head_x + 0.30 * attribute.occluder_side + 0.12
        far, _, nx, ny = _limb(x, y, head_x, head_y - 0.10, foot_x, head_y - 2.0, 0.085, 0.065)
        if far < 1.0:
            return scaled(body, 0.8), True, nx, ny
    return body, False, 0.0, 0.0


@njit(error_model="numpy")
def _paint_scarf(attribute, x, y):
    """A scarf drawn up over chin and mouth: (colour, covered, normal x, normal y)."""
    body = (attribute.occluder_red, attribute.occluder_green, attribute.occluder_blue)
    across = x / 0.88
    edge = -0.90 + 0.32 * attribute.occluder_height + 0.10 * across * across
    edge += 0.03 * math.sin(5.0 * across + 4.0 * attribute.occluder_side)
    hem = -1.22 - 0.08 * math.sin(4.0 * across)
    half = 1.0 - 0.35 * smoothstep(-0.85, -1.30, y)  # drawn together round the neck
    if abs(across) >= half or y > edge or y < hem:
        return body, False, 0.0, 0.0
    sag = y + 0.22 * across * across * (1.0 if attribute.occluder_side >= 0.0 else 0.6)
    folds = smooth_noise(across * 2.2 + 9.0 * attribute.occluder_side, sag * 11.0, 63)
    knit = 0.94 + 0.10 * smooth_noise(x * 42.0, y * 42.0, 64)
    shade = (0.70 + 0.38 * folds) * knit * (1.0 - 0.25 * smoothstep(0.07, 0.0, edge - y))
    return scaled(body, shade), True, 0.9 * across, 0.35 + 0.8 * (folds - 0.5)


@njit(error_model="numpy")
def paint_occluder(attribute, x, y):
    """Colour, class, whether covered, and normal of the occluder at (x, y).

    (x, y) are face units from the middle of the face as seen (`occluder_origin`), level with the eyes.
    """
    kind = int(attribute.occluder)
    if kind == HAND:
        colour, covered, nx, ny = _paint_hand(attribute, x, y)
    elif kind == MICROPHONE:
        colour, covered, nx, ny = _paint_microphone(attribute, x, y)
    else:
        colour, covered, nx, ny = _paint_scarf(attribute, x, y)
    nz = math.sqrt(max(1.0 - nx * nx - ny * ny, 0.02))
    return colour, CLOTH if kind == SCARF else BACKGROUND, covered, (nx, ny, nz)
