"""The shading pass: every sample's colour, class and light, and the samples' reduction to pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.worlds.geometry import camera_frame, hair_depth, head_rotation, skull_section
from models.worlds.numeric import clamp, smoothstep
from models.worlds.paint import BACKGROUND, GLASSES, HAIR, LEFT_EAR, RIGHT_EAR, paint_face
from models.worlds.rasterise import (
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


@njit
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


@njit
def apply_light(attribute, colour, nx, ny, nz, gloss):
    """A picture colour lit by key light and ambient; the zero normal gets ambient and a share of the key."""
    light_x = math.sin(attribute.light_azimuth) * math.cos(attribute.light_elevation)
    light_y = math.sin(attribute.light_elevation)
    light_z = math.cos(attribute.light_azimuth) * math.cos(attribute.light_elevation)
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    direct, ambient, shine = 0.55, 1.0, 0.0
    deep, middle, shallow = direct, direct, direct
    if length > 1e-6:
        nx, ny, nz = nx / length, ny / length, nz / length
        # Light wraps round the edge as it does through skin, red furthest.
        direct = nx * light_x + ny * light_y + nz * light_z
        deep = max((direct + 0.26) / 1.26, 0.0)
        middle = max((direct + 0.17) / 1.17, 0.0)
        shallow = max((direct + 0.14) / 1.14, 0.0)
        ambient = 0.82 + 0.18 * ny
        half_z = light_z + 1.0
        half = math.sqrt(light_x * light_x + light_y * light_y + half_z * half_z)
        facing = (nx * light_x + ny * light_y + nz * half_z) / max(half, 1e-6)
        shine = gloss * max(facing, 0.0) ** 22
    strength = 1.22 - 0.55 * attribute.ambient
    base = ambient * attribute.ambient
    red = colour[0] * colour[0] * (base + strength * deep * attribute.light_red) + shine * attribute.light_red
    green = (
        colour[1] * colour[1] * (base + strength * middle * attribute.light_green)
        + shine * attribute.light_green
    )
    blue = (
        colour[2] * colour[2] * (base + strength * shallow * attribute.light_blue)
        + shine * attribute.light_blue
    )
    return math.sqrt(max(red, 0.0)), math.sqrt(max(green, 0.0)), math.sqrt(max(blue, 0.0))


@njit
def _shade_head(identity, attribute, face, theta, y):
    """Colour, class and gloss of the head's surface at (theta, y)."""
    width, _ = skull_section(face, y)
    x = width * math.sin(theta)
    inside = hair_depth(attribute, theta, x, y)
    if inside > 0.0:
        return paint_hair(attribute, theta, y), HAIR, 0.02
    if abs(theta) > 0.5 * math.pi:
        x = math.copysign(2.0 * width - abs(x), theta)  # past the side, x must not run back to the front
    colour, label = paint_face(identity, attribute, face, x, y)
    # Hair shades the skin next to it.
    shade = 1.0 - 0.30 * smoothstep(-0.10, 0.0, inside)
    return (colour[0] * shade, colour[1] * shade, colour[2] * shade), label, 0.055


@njit
def render_samples(identity, attribute, face, size, image, labels):
    """Fill `image` (size, size, 3) in [0, 1] and `labels` (size, size) for one photograph."""
    rotation = head_rotation(attribute)
    frame = camera_frame(attribute, size)
    scale, centre_x, centre_y = frame
    depth = np.full((size, size), FAR)
    samples = np.zeros((size, size, 5))
    parts = np.zeros((size, size), np.uint8)
    points, places = head_mesh(face, attribute)
    draw_mesh(points, places, rotation, frame, HEAD, False, depth, samples, parts)
    if not has_long_hair(attribute):
        points, places = ear_mesh(face, -1.0)
        draw_mesh(points, places, rotation, frame, RIGHT_EAR_DISC, True, depth, samples, parts)
        points, places = ear_mesh(face, 1.0)
        draw_mesh(points, places, rotation, frame, LEFT_EAR_DISC, True, depth, samples, parts)
    cos_roll, sin_roll = math.cos(attribute.roll), math.sin(attribute.roll)
    with_glasses = int(attribute.glasses) > 0
    if with_glasses:
        for side in (-1.0, 1.0):
            points, places = arm_mesh(side)
            draw_mesh(points, places, rotation, frame, GLASSES_ARM, True, depth, samples, parts)
    for line in range(size):
        for pixel in range(size):
            x = (pixel + 0.5 - centre_x) / scale
            y = (centre_y - line - 0.5) / scale
            u, v = samples[line, pixel, 0], samples[line, pixel, 1]
            nx, ny, nz = samples[line, pixel, 2], samples[line, pixel, 3], samples[line, pixel, 4]
            part = parts[line, pixel]
            gloss = 0.0
            if part == HEAD:
                colour, label, gloss = _shade_head(identity, attribute, face, u, v)
            elif part in (RIGHT_EAR_DISC, LEFT_EAR_DISC):
                colour = paint_ear(attribute, u, v)
                label = RIGHT_EAR if part == RIGHT_EAR_DISC else LEFT_EAR
                gloss = 0.03
            elif part == GLASSES_ARM:
                colour = (attribute.glasses_red, attribute.glasses_green, attribute.glasses_blue)
                label = GLASSES
            else:
                level_x = cos_roll * x + sin_roll * y
                level_y = cos_roll * y - sin_roll * x
                across, down = (pixel + 0.5) / size, (line + 0.5) / size
                colour, label, normal = paint_scenery(attribute, level_x, level_y, across, down)
                nx, ny, nz = normal
            colour = apply_light(attribute, colour, nx, ny, nz, gloss)
            if with_glasses:
                front_x, front_y, z = _glasses_front(rotation, x, y)
                # The bridge rests on any nose, however high.
                if z > depth[line, pixel] - (0.15 if abs(front_x) < 0.13 else 0.0):
                    colour, worn = paint_glasses(attribute, front_x, front_y, colour)
                    if worn != BACKGROUND:
                        label = worn
            image[line, pixel, 0] = clamp(colour[0], 0.0, 1.0)
            image[line, pixel, 1] = clamp(colour[1], 0.0, 1.0)
            image[line, pixel, 2] = clamp(colour[2], 0.0, 1.0)
            labels[line, pixel] = label


@njit
def reduce_samples(image, labels, supersample, picture, parsing):
    """Average the colours and take the commonest class of each pixel's samples."""
    size = parsing.shape[0]
    counts = np.empty(32, np.int64)
    for line in range(size):
        for pixel in range(size):
            counts[:] = 0
            for channel in range(3):
                total = 0.0
                for down in range(supersample):
                    for across in range(supersample):
                        total += image[line * supersample + down, pixel * supersample + across, channel]
                picture[line, pixel, channel] = np.uint8(total / (supersample * supersample) * 255.0 + 0.5)
            for down in range(supersample):
                for across in range(supersample):
                    counts[labels[line * supersample + down, pixel * supersample + across]] += 1
            parsing[line, pixel] = np.argmax(counts)
