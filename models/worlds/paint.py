"""What is painted on the face: skin and its marks, make-up, brows, eyes, lips, and the class of each place.

Every function takes a position (x, y) on the front surface in face units and works on colours as RGB triples
in [0, 1] as they appear in a picture (gamma is undone later, when light is applied).
"""

from __future__ import annotations

import math

from numba import njit

from models.worlds.numeric import (
    bell,
    clamp,
    lattice_noise,
    lerp,
    mix,
    scaled,
    smooth_noise,
    smoothstep,
    tinted,
)

# CelebAMask-HQ classes in the order of the public face parsers; left and right are the subject's.
BACKGROUND, SKIN, RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE, GLASSES = 0, 1, 2, 3, 4, 5, 6
LEFT_EAR, RIGHT_EAR, NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK = 7, 8, 10, 11, 12, 13, 14
CLOTH, HAIR = 16, 17

FRECKLE_CELL = 0.036  # face units; the lattices are once, one and a half and twice as wide


@njit(error_model="numpy")
def skin_tone(attribute):
    """The photograph's skin colour."""
    return attribute.skin_red, attribute.skin_green, attribute.skin_blue


@njit(error_model="numpy")
def eye_opening(face, x, y):
    """How far inside the lids (x, y) lies: 1 on the eye's axis, 0 on a lid's edge, negative outside."""
    along = (abs(x) - face.eye_x) / face.eye_width
    if abs(along) >= 1.35:
        return -9.0
    height = y - face.eye_y - face.eye_tilt * along * face.eye_width
    # Beyond the corners the lids are prolonged by a sliver, so that lid shade fades out round them.
    arc = max(1.0 - along * along, 0.0)
    if height >= 0.0:
        return 1.0 - height / (face.eye_height * arc + 0.004) if arc > 0.0 else -9.0
    return 1.0 + height / (0.72 * face.eye_height * arc + 0.004) if arc > 0.0 else -9.0


@njit(error_model="numpy")
def brow_line(face, outward):
    """Height of a brow's middle line at `outward` from the eye's centre, positive towards the temple."""
    bend = outward / 0.20
    return face.brow_y + face.brow_tilt * outward + face.brow_arch * (1.0 - bend * bend) * 0.6


@njit(error_model="numpy")
def lip_edges(face, x):
    """Heights at x of (outer upper, inner upper, inner lower, outer lower) lip edges."""
    along = clamp(x / face.mouth_width, -1.0, 1.0)
    arc = 1.0 - along * along
    middle = face.mouth_y + face.corner_rise * (along * along - 0.35)
    gap = face.mouth_gap * math.sqrt(arc)
    # The upper lip dips in the middle between two peaks: Cupid's bow.
    bow = 1.0 + 0.16 * bell(abs(along) - 0.24, 0.14) - 0.20 * bell(along, 0.10)
    inner_upper = middle + 0.30 * gap
    inner_lower = middle - 0.70 * gap
    return (
        inner_upper + face.upper_lip * arc * bow,
        inner_upper,
        inner_lower,
        inner_lower - face.lower_lip * arc * (1.25 - 0.25 * arc),  # fuller than an arc
    )


@njit(error_model="numpy")
def on_nose(face, x, y):
    """Whether (x, y) belongs to the nose as face parsers draw it."""
    bottom = face.nose_y - 0.075
    top = face.eye_y + 0.02
    if y > top or y < bottom:
        return False
    share = (top - y) / (top - face.nose_y)
    half = lerp(0.055, face.nose_width * 1.12, smoothstep(0.2, 0.95, share))
    if y < face.nose_y:
        sunk = (face.nose_y - y) / (face.nose_y - bottom)
        half *= math.sqrt(max(1.0 - sunk * sunk, 0.0))
    return abs(x) < half


@njit(error_model="numpy")
def _freckle_layer(colour, x, y, cosine, sine, cell, amount, key):
    """One lattice of spots, one per cell at most, of random place, size and strength."""
    across = (cosine * x - sine * y) / cell
    up = (sine * x + cosine * y) / cell
    column, row = math.floor(across), math.floor(up)
    if lattice_noise(column, row, key) > 0.12 + 0.62 * amount:
        return colour
    strength, size = lattice_noise(column, row, key + 3), lattice_noise(column, row, key + 4)
    radius = 0.14 + 0.24 * size * size
    away_x = across - column - radius - (1.0 - 2.0 * radius) * lattice_noise(column, row, key + 1)
    away_y = up - row - radius - (1.0 - 2.0 * radius) * lattice_noise(column, row, key + 2)
    square = (away_x * away_x + away_y * away_y) / (radius * radius)
    if square >= 1.0:
        return colour
    share = (0.22 + 0.78 * strength) * (0.30 + 0.70 * amount) * (1.0 - square) ** 2
    return tinted(colour, 1 - 0.34 * share, 1 - 0.50 * share, 1 - 0.60 * share)


@njit(error_model="numpy")
def _freckles(identity, face, colour, x, y, seed):
    if identity.freckles <= 0.0:
        return colour
    amount = identity.freckles * bell(abs(x) - 0.25, 0.25) * bell(y - face.nose_y - 0.15, 0.18)
    if amount <= 0.03:
        return colour
    # Three lattices turned against each other (by 0.5, 1.6 and 2.7 radians), so that none shows.
    colour = _freckle_layer(colour, x, y, 0.8776, 0.4794, FRECKLE_CELL, amount, seed)
    colour = _freckle_layer(colour, x, y, -0.0292, 0.9996, 1.5 * FRECKLE_CELL, amount, seed + 10)
    return _freckle_layer(colour, x, y, -0.9041, 0.4274, 2.1 * FRECKLE_CELL, 0.7 * amount, seed + 20)


@njit(error_model="numpy")
def _stubble(identity, face, colour, x, y, seed):
    if identity.stubble <= 0.0 or y > face.nose_y + 0.20:
        return colour
    # Cheeks, chin and the strip under the nose, not the lips' rim; the border wanders and fades.
    wander = 0.10 * (smooth_noise(x * 7.0, y * 7.0, seed + 5) - 0.5)
    cheek_line = face.mouth_y + 0.05 + 0.42 * max(abs(x) - 0.28, 0.0) + wander
    moustache = bell(x, 0.21) * smoothstep(face.nose_y - 0.04, face.nose_y - 0.13, y)
    area = max(
        smoothstep(cheek_line + 0.20, cheek_line - 0.12, y) * smoothstep(0.06, 0.36, abs(x)), moustache
    )
    below = smoothstep(face.mouth_y - 0.09, face.mouth_y - 0.21, y)
    share = identity.stubble * max(area, below)
    if share <= 0.01:
        return colour
    # Short hairs, finer than a pixel of most pictures: thin areas show single hairs, dense ones a shade.
    hairs = 0.6 * smooth_noise(x * 120.0, y * 70.0, seed + 6) + 0.4 * smooth_noise(
        x * 52.0, y * 36.0, seed + 9
    )
    share *= 0.72 + 0.56 * (hairs - 0.3) * (1.0 - 0.4 * share)
    return tinted(colour, 1 - 0.66 * share, 1 - 0.63 * share, 1 - 0.56 * share)


@njit(error_model="numpy")
def _mole(colour, x, y, mole_x, mole_y, radius):
    away_x, away_y = (x - mole_x) / radius, (y - mole_y) / radius
    square = away_x * away_x + away_y * away_y
    if square >= 1.0:
        return colour
    share = 0.85 * smoothstep(1.0, 0.3, square)
    return tinted(colour, 1 - 0.68 * share, 1 - 0.80 * share, 1 - 0.84 * share)


@njit(error_model="numpy")
def paint_skin(identity, attribute, face, x, y):
    """Skin with the person's marks: mottling, freckles, moles, stubble, folds, shade under the eyes."""
    seed = int((identity.skin_seed + 1.0) * 400000.0)
    mottling = 0.6 * smooth_noise(x * 5.0, y * 5.0, seed + 7) + 0.4 * smooth_noise(
        x * 13.0, y * 13.0, seed + 8
    )
    tone = 1.0 + 0.10 * (mottling - 0.5)
    colour = tinted(skin_tone(attribute), tone, tone * (1.0 - 0.03 * (mottling - 0.5)), tone)
    side = abs(x)
    # Blood shows on cheeks, nose tip and chin.
    flush = 0.5 * bell(side - 0.40, 0.17) * bell(y + 0.18, 0.14) + 0.5 * bell(x, 0.12) * bell(
        y - face.nose_y, 0.09
    )
    colour = tinted(colour, 1 + 0.03 * flush, 1 - 0.09 * flush, 1 - 0.07 * flush)
    colour = _freckles(identity, face, colour, x, y, seed)
    colour = _stubble(identity, face, colour, x, y, seed)
    colour = _mole(colour, x, y, identity.first_mole_x, identity.first_mole_y, 0.030)
    if identity.second_mole_size > 0.008:
        colour = _mole(
            colour, x, y, identity.second_mole_x, identity.second_mole_y, identity.second_mole_size
        )
    if identity.folds > 0.0:
        drop = face.nose_y + 0.02 - y
        line = face.nose_width + 0.030 + 0.62 * drop - 0.55 * drop * drop
        reach = smoothstep(face.mouth_y - 0.10, face.mouth_y + 0.06, y) * smoothstep(
            face.nose_y + 0.06, face.nose_y - 0.04, y
        )
        colour = scaled(colour, 1.0 - identity.folds * bell(side - line, 0.026) * reach)
    if identity.eye_bags > 0.0:
        bag = y - face.eye_y + 0.72 * face.eye_height + 0.065
        shade = identity.eye_bags * bell(side - face.eye_x + 0.02, 0.11) * bell(bag, 0.026)
        colour = tinted(colour, 1 - 0.85 * shade, 1 - shade, 1 - 0.85 * shade)
    nostril = 0.70 * bell(side - 0.50 * face.nose_width, 0.027) * bell(y - face.nose_y + 0.060, 0.017)
    crease = 0.22 * bell(side - face.nose_width - 0.005, 0.018) * bell(y - face.nose_y - 0.02, 0.050)
    under = 0.10 * bell(x, 0.85 * face.nose_width) * bell(y - face.nose_y + 0.085, 0.035)
    socket = 0.14 * bell(side - face.eye_x + 0.09, 0.075) * bell(y - face.eye_y - 0.045, 0.065)
    chin = (
        0.24 * bell(x, 0.13) * bell(y - face.mouth_y + face.lower_lip + 0.7 * face.mouth_gap + 0.055, 0.030)
    )
    depth = (1.0 - nostril) * (1.0 - crease) * (1.0 - under) * (1.0 - socket) * (1.0 - chin)
    return tinted(colour, 0.1 + 0.9 * depth, depth, depth)


@njit(error_model="numpy")
def paint_make_up(attribute, face, colour, x, y):
    """Blusher on the cheeks and eye shadow on the lids."""
    side = abs(x)
    if attribute.blush > 0.0:
        share = 0.45 * attribute.blush * bell(side - 0.44, 0.12) * bell(y + 0.16, 0.10)
        colour = mix(colour, (0.88, 0.30, 0.36), share)
    if attribute.eye_shadow > 0.0 and abs(side - face.eye_x) < 0.4:
        lid = smoothstep(face.brow_y + 0.02, face.eye_y + 0.06, y) * smoothstep(-0.06, 0.0, y - face.eye_y)
        share = 0.80 * attribute.eye_shadow * bell(side - face.eye_x - 0.01, 0.85 * face.eye_width) * lid
        shadow = (attribute.eye_shadow_red, attribute.eye_shadow_green, attribute.eye_shadow_blue)
        colour = mix(colour, shadow, share)
    return colour


@njit(error_model="numpy")
def brow_cover(identity, face, x, y):
    """Opacity in [0, 1] of the brow hair at (x, y)."""
    outward = abs(x) - face.eye_x
    if abs(outward) > 0.25:
        return 0.0
    taper = smoothstep(-0.24, -0.12, outward + 0.3 * (y - face.brow_y))
    thickness = face.brow_thickness * taper * (1.0 - 0.60 * smoothstep(0.0, 0.23, outward))
    distance = abs(y - brow_line(face, outward))
    ends = smoothstep(-0.215, -0.150, outward) * smoothstep(0.240, 0.165, outward)
    hairs = 0.80 + 0.20 * smooth_noise(outward * 70.0 + y * 35.0, y * 18.0, 3)
    return identity.brow_strength * smoothstep(thickness + 0.008, thickness * 0.55, distance) * ends * hairs


@njit(error_model="numpy")
def iris_colour(identity):
    """Brown, amber, green, blue or grey, by hue."""
    hue = clamp(identity.iris_hue, 0.0, 1.0) * 4.0
    if hue < 1.0:
        colour = mix((0.26, 0.14, 0.07), (0.52, 0.30, 0.10), hue)
    elif hue < 2.0:
        colour = mix((0.52, 0.30, 0.10), (0.28, 0.50, 0.24), hue - 1.0)
    elif hue < 3.0:
        colour = mix((0.28, 0.50, 0.24), (0.18, 0.44, 0.78), hue - 2.0)
    else:
        colour = mix((0.18, 0.44, 0.78), (0.56, 0.62, 0.68), hue - 3.0)
    return scaled(colour, identity.iris_lightness)


@njit(error_model="numpy")
def paint_eye(identity, face, x, y, opening):
    """The visible eyeball: sclera, iris with rim and pupil, lid shadow and a highlight."""
    side = 1.0 if x > 0 else -1.0
    across = x - side * face.eye_x - face.iris_dx
    up = y - face.iris_y
    radius = math.hypot(across, up) / face.iris_radius
    along = (abs(x) - face.eye_x) / face.eye_width
    colour = scaled((0.91, 0.90, 0.89), 1.0 - 0.28 * along * along)
    if along < -0.72:
        colour = mix(colour, (0.78, 0.48, 0.44), 0.7 * smoothstep(-0.72, -0.95, along))
    if radius < 1.0:
        spokes = smooth_noise(math.atan2(up, across) * 9.0, radius * 2.0, 21)
        tone = (0.80 + 0.40 * spokes) * (1.12 - 0.22 * up / face.iris_radius)
        iris = scaled(iris_colour(identity), tone * (1.0 - 0.55 * smoothstep(0.80, 1.0, radius)))
        iris = mix(iris, (0.02, 0.02, 0.02), smoothstep(0.46, 0.38, radius))
        colour = mix(colour, iris, smoothstep(1.0, 0.93, radius))
    glint = math.hypot(across + 0.34 * face.iris_radius, up - 0.36 * face.iris_radius)
    colour = mix(colour, (1.0, 1.0, 1.0), 0.95 * smoothstep(0.27, 0.18, glint / face.iris_radius))
    lid = 0.50 * smoothstep(0.45, 0.0, opening) if y > face.eye_y else 0.18 * smoothstep(0.25, 0.0, opening)
    return scaled(colour, 1.0 - lid)


@njit(error_model="numpy")
def paint_lids(face, colour, x, y, opening):
    """Lashes on the lids' edges and the crease above the eye, on the skin round an eye."""
    height = y - face.eye_y
    along = (abs(x) - face.eye_x) / face.eye_width
    if opening > -1.2 and abs(along) < 1.0:
        reach = 0.016 if height > 0.0 else 0.009
        edge = -opening * (face.eye_height * (1.0 - along * along) + 0.004)
        lash = (0.88 if height > 0.0 else 0.40) * smoothstep(reach, 0.3 * reach, edge)
        colour = mix(colour, (0.07, 0.05, 0.05), lash)
    if height > 0.0 and abs(along) < 1.2:
        fold = face.eye_height * (1.0 - 0.8 * along * along) + 0.036 + face.eye_tilt * along * face.eye_width
        share = 0.34 * bell(height - fold, 0.010) * smoothstep(1.2, 0.7, abs(along))
        colour = scaled(colour, 1.0 - share)
    return colour


@njit(error_model="numpy")
def paint_mouth(attribute, face, x, y):
    """Colour and class of the mouth at (x, y); class 0 where there is none."""
    nothing = ((0.0, 0.0, 0.0), BACKGROUND)
    along = x / face.mouth_width
    if abs(along) >= 1.0:
        return nothing
    outer_upper, inner_upper, inner_lower, outer_lower = lip_edges(face, x)
    if y >= outer_upper or y <= outer_lower:
        return nothing
    if inner_lower < y < inner_upper:
        if face.mouth_gap < 0.03:
            return (0.24, 0.09, 0.09), MOUTH
        colour = (0.20, 0.05, 0.06)
        teeth = inner_upper - 0.045 * (1.0 - 0.5 * along * along)
        if y > teeth and abs(along) < 0.78:
            gaps = 1.0 - 0.20 * smoothstep(0.42, 0.5, abs(x / 0.062 - math.floor(x / 0.062 + 0.5)))
            colour = scaled((0.95, 0.93, 0.88), gaps * (1.0 - 0.55 * along * along))
        elif y < inner_lower + 0.35 * (inner_upper - inner_lower):
            colour = mix(colour, (0.66, 0.28, 0.28), 0.8 * bell(along, 0.40))
        return colour, MOUTH
    red, green, blue = skin_tone(attribute)
    colour = mix(
        (0.74 * red + 0.11, 0.46 * green + 0.04, 0.50 * blue + 0.06),
        (attribute.lipstick_red, attribute.lipstick_green, attribute.lipstick_blue),
        attribute.lipstick * 0.92,
    )
    wrinkles = 0.94 + 0.12 * smooth_noise(x * 60.0, y * 9.0, 17)
    if y >= inner_upper:
        share = (y - inner_upper) / max(outer_upper - inner_upper, 1e-6)
        return scaled(colour, wrinkles * (0.76 + 0.16 * share)), UPPER_LIP
    share = (inner_lower - y) / max(inner_lower - outer_lower, 1e-6)
    shine = 0.16 * bell(share - 0.42, 0.20) * bell(along, 0.34)
    colour = mix(scaled(colour, wrinkles * (1.06 - 0.22 * share * share)), (1.0, 0.96, 0.95), shine)
    return colour, LOWER_LIP


@njit(error_model="numpy")
def paint_face(identity, attribute, face, x, y):
    """Colour and class of the front of the bare face at (x, y)."""
    left = x > 0.0  # the subject's left is on the right of the picture
    opening = eye_opening(face, x, y)
    if opening > 0.0:
        return paint_eye(identity, face, x, y, opening), LEFT_EYE if left else RIGHT_EYE
    if abs(y - face.mouth_y) < 0.34:
        colour, label = paint_mouth(attribute, face, x, y)
        if label != BACKGROUND:
            return colour, label
    colour = paint_make_up(attribute, face, paint_skin(identity, attribute, face, x, y), x, y)
    label = NOSE if on_nose(face, x, y) else SKIN
    colour = paint_lids(face, colour, x, y, opening)
    cover = brow_cover(identity, face, x, y)
    if cover > 0.02:
        hair = (attribute.hair_red * 0.62, attribute.hair_green * 0.60, attribute.hair_blue * 0.58)
        colour = mix(colour, hair, cover)
        if cover > 0.35 * identity.brow_strength:
            label = LEFT_BROW if left else RIGHT_BROW
    return colour, label
