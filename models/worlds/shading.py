"""The shading pass: every sample's colour, class and light, and the samples' reduction to pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.worlds.geometry import camera_frame, hair_depth, head_rotation
from models.worlds.numeric import clamp, scaled, smoothstep
from models.worlds.occluders import NO_OCCLUDER, occluder_origin, paint_occluder
from models.worlds.paint import BACKGROUND, GLASSES, HAIR, LEFT_EAR, RIGHT_EAR, paint_face
from models.worlds.rasterise import (
    CHANNELS,
    FAR,
    GLASSES_ARM,
    HEAD,
    LEFT_EAR_DISC,
    RIGHT_EAR_DISC,
    arm_mesh,
    draw_mesh,
    ear_mesh,
    head_mesh,
)
from models.worlds.scenery import (
    GLASSES_CURVE,
    GLASSES_FRONT,
    has_long_hair,
    paint_ear,
    paint_glasses,
    paint_hair,
    paint_scenery,
)


@njit(error_model="numpy")
def _glasses_front(rotation, x, y):
    """Where the line of sight at (x, y) meets the curved front of the glasses: (x, y) on it and depth."""
    front = GLASSES_FRONT
    front_x, front_y, depth = 0.0, 0.0, 0.0
    for _ in range(4):
        depth = (front - rotation[0, 2] * x - rotation[1, 2] * y) / rotation[2, 2]
        front_x = rotation[0, 0] * x + rotation[1, 0] * y + rotation[2, 0] * depth
        front_y = rotation[0, 1] * x + rotation[1, 1] * y + rotation[2, 1] * depth
        front = GLASSES_FRONT - GLASSES_CURVE * min(front_x * front_x, 0.5)
    return front_x, front_y, depth


@njit(error_model="numpy")
def light_of(attribute):
    """What `apply_light` needs of a photograph: light and half direction, ambient, strength, colour."""
    light_x = math.sin(attribute.light_azimuth) * math.cos(attribute.light_elevation)
    light_y = math.sin(attribute.light_elevation)
    light_z = math.cos(attribute.light_azimuth) * math.cos(attribute.light_elevation)
    half = max(math.sqrt(light_x * light_x + light_y * light_y + (light_z + 1.0) ** 2), 1e-6)
    return (
        (light_x, light_y, light_z),
        (light_x / half, light_y / half, (light_z + 1.0) / half),
        1.0 * attribute.ambient,
        1.22 - 0.55 * attribute.ambient,
        (1.0 * attribute.light_red, 1.0 * attribute.light_green, 1.0 * attribute.light_blue),
    )


@njit(error_model="numpy")
def apply_light(light, colour, nx, ny, nz, gloss):
    """A picture colour lit by key light and ambient; the zero normal gets ambient and a share of the key."""
    towards, half, ambient, strength, key = light
    square = nx * nx + ny * ny + nz * nz
    shine = 0.0
    deep, middle, shallow = 0.55, 0.55, 0.55
    if square > 1e-12:
        inverse = 1.0 / math.sqrt(square)
        nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
        # Light wraps round the edge as it does through skin, red furthest.
        direct = nx * towards[0] + ny * towards[1] + nz * towards[2]
        deep = max((direct + 0.26) * (1.0 / 1.26), 0.0)
        middle = max((direct + 0.17) * (1.0 / 1.17), 0.0)
        shallow = max((direct + 0.14) * (1.0 / 1.14), 0.0)
        ambient = ambient * (0.82 + 0.18 * ny)
        facing = nx * half[0] + ny * half[1] + nz * half[2]
        if gloss > 0.0 and facing > 0.7:
            power = facing * facing  # the highlight is facing**22
            fourth = power * power
            eighth = fourth * fourth
            shine = gloss * eighth * eighth * fourth * power
    red = colour[0] * colour[0] * (ambient + strength * deep * key[0]) + shine * key[0]
    green = colour[1] * colour[1] * (ambient + strength * middle * key[1]) + shine * key[1]
    blue = colour[2] * colour[2] * (ambient + strength * shallow * key[2]) + shine * key[2]
    return math.sqrt(max(red, 0.0)), math.sqrt(max(green, 0.0)), math.sqrt(max(blue, 0.0))


@njit(error_model="numpy")
def _shade_head(identity, attribute, face, theta, y, x):
    """Colour, class and gloss of the head's surface at (theta, y), painted at (x, y)."""
    inside = hair_depth(attribute, theta, x, y)
    if inside > 0.0:
        return paint_hair(attribute, theta, y), HAIR, 0.02
    colour, label = paint_face(identity, attribute, face, x, y)
    if inside > -0.10:
        # Hair shades the skin next to it.
        colour = scaled(colour, 1.0 - 0.30 * smoothstep(-0.10, 0.0, inside))
    return colour, label, 0.055


@njit(error_model="numpy")
def _put(image, line, pixel, colour):
    image[line, pixel, 0] = clamp(colour[0], 0.0, 1.0)
    image[line, pixel, 1] = clamp(colour[1], 0.0, 1.0)
    image[line, pixel, 2] = clamp(colour[2], 0.0, 1.0)


@njit(error_model="numpy")
def render_samples(identity, attribute, face, size, image, labels, depth):
    """Fill `image` (size, size, 3) in [0, 1], `labels` and `depth` (size, size) for one photograph.

    `depth` is in face units towards the camera, `FAR` where neither head nor ears nor arms of glasses are.
    """
    rotation = head_rotation(attribute)
    frame = camera_frame(attribute, size)
    scale, centre_x, centre_y = frame
    light = light_of(attribute)
    depth[:] = FAR
    samples = np.zeros((size, size, CHANNELS), np.float32)
    parts = np.zeros((size, size), np.uint8)
    points, places = head_mesh(face, attribute, size)
    draw_mesh(points, places, rotation, frame, HEAD, False, depth, samples, parts)
    if not has_long_hair(attribute):
        points, places = ear_mesh(face, -1.0)
        draw_mesh(points, places, rotation, frame, RIGHT_EAR_DISC, True, depth, samples, parts)
        points, places = ear_mesh(face, 1.0)
        draw_mesh(points, places, rotation, frame, LEFT_EAR_DISC, True, depth, samples, parts)
    cos_roll, sin_roll = math.cos(attribute.roll), math.sin(attribute.roll)
    with_glasses = int(attribute.glasses) > 0
    with_occluder = int(attribute.occluder) != NO_OCCLUDER
    origin_x, origin_y = occluder_origin(attribute)
    if with_glasses:
        for side in (-1.0, 1.0):
            points, places = arm_mesh(side)
            draw_mesh(points, places, rotation, frame, GLASSES_ARM, True, depth, samples, parts)
    for line in range(size):
        for pixel in range(size):
            x = (pixel + 0.5 - centre_x) / scale
            y = (centre_y - line - 0.5) / scale
            level_x = cos_roll * x + sin_roll * y
            level_y = cos_roll * y - sin_roll * x
            if with_occluder:
                colour, label, covered, normal = paint_occluder(
                    attribute, level_x - origin_x, level_y - origin_y
                )
                if covered:
                    colour = apply_light(light, colour, normal[0], normal[1], normal[2], 0.02)
                    _put(image, line, pixel, colour)
                    labels[line, pixel] = label
                    continue
            u, v = 1.0 * samples[line, pixel, 0], 1.0 * samples[line, pixel, 1]
            nx, ny, nz = samples[line, pixel, 2], samples[line, pixel, 3], samples[line, pixel, 4]
            part = parts[line, pixel]
            gloss = 0.0
            if part == HEAD:
                painted_x = 1.0 * samples[line, pixel, 5]
                colour, label, gloss = _shade_head(identity, attribute, face, u, v, painted_x)
            elif part in (RIGHT_EAR_DISC, LEFT_EAR_DISC):
                colour = paint_ear(attribute, u, v)
                label = RIGHT_EAR if part == RIGHT_EAR_DISC else LEFT_EAR
                gloss = 0.03
            elif part == GLASSES_ARM:
                colour = (attribute.glasses_red, attribute.glasses_green, attribute.glasses_blue)
                label = GLASSES
            else:
                across, down = (pixel + 0.5) / size, (line + 0.5) / size
                colour, label, normal = paint_scenery(attribute, level_x, level_y, across, down)
                nx, ny, nz = normal
            colour = apply_light(light, colour, nx, ny, nz, gloss)
            if with_glasses:
                front_x, front_y, z = _glasses_front(rotation, x, y)
                # The bridge rests on any nose, however high.
                if z > depth[line, pixel] - (0.15 if abs(front_x) < 0.13 else 0.0):
                    colour, worn = paint_glasses(attribute, front_x, front_y, colour)
                    if worn != BACKGROUND:
                        label = worn
            _put(image, line, pixel, colour)
            labels[line, pixel] = label


@njit(error_model="numpy")
def reduce_samples(image, labels, depth, supersample, picture, parsing, nearest):
    """Average the colours, take the commonest class and the nearest depth of each pixel's samples."""
    size = parsing.shape[0]
    counts = np.zeros(32, np.int64)
    to_byte = 255.0 / (supersample * supersample)
    for line in range(size):
        for pixel in range(size):
            red, green, blue, front = 0.0, 0.0, 0.0, FAR
            commonest = labels[line * supersample, pixel * supersample]
            for down in range(line * supersample, (line + 1) * supersample):
                for across in range(pixel * supersample, (pixel + 1) * supersample):
                    red += image[down, across, 0]
                    green += image[down, across, 1]
                    blue += image[down, across, 2]
                    front = max(front, depth[down, across])
                    label = labels[down, across]
                    counts[label] += 1
                    # On a tie the lower class wins, whatever the order of the samples.
                    if counts[label] > counts[commonest] or (
                        counts[label] == counts[commonest] and label < commonest
                    ):
                        commonest = label
            for down in range(line * supersample, (line + 1) * supersample):
                for across in range(pixel * supersample, (pixel + 1) * supersample):
                    counts[labels[down, across]] = 0
            picture[line, pixel, 0] = np.uint8(red * to_byte + 0.5)
            picture[line, pixel, 1] = np.uint8(green * to_byte + 0.5)
            picture[line, pixel, 2] = np.uint8(blue * to_byte + 0.5)
            parsing[line, pixel] = commonest
            nearest[line, pixel] = front if front > FAR else np.nan
