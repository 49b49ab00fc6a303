"""A picture squeezed to a few pixels and back, as Pillow does it, in a fifth of its time.

Pillow resamples 8-bit pictures along rows and then along columns, each time in whole numbers: weights in
units of 2 to the power of -22, sums rounded and clipped to bytes. The same is done here, to the last bit, by
loops over what lies in one piece, and on the way back for the part of the picture that is asked for alone.
numba compiles them at their first call on a machine (a second or two) and keeps what it compiled.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.faces.images import Image

FRACTION_BITS = 22
"""Pillow's weights are whole numbers of 2 to the power of -22."""

LOBES = 3
"""Lanczos's window reaches so many pixels, of the picture or of the result, whichever are larger."""


def squeezed_and_back(image: Image, side: int, rows: slice, columns: slice) -> Image:
    """Part of a picture that was squeezed to `side` x `side` pixels and enlarged again, LANCZOS both times.

    Args:
        image: uint8 RGB (H, W, 3).
        side: no more than H and W.
        rows: which rows of the result.
        columns: and which columns.

    Returns:
        uint8 RGB, exactly the bytes that Pillow's two calls of `resize` give there.
    """
    height, width = image.shape[:2]
    turned = cv2.transpose(image).reshape(width, -1)  # (W, H * 3): a pixel column in one piece
    across = np.empty((side, height * 3), np.uint8)
    _weigh(turned, lanczos_weights(width, side), across)
    down = np.empty((side, side * 3), np.uint8)
    _weigh(_turned(across, side, height), lanczos_weights(height, side), down)
    wide = np.empty((columns.stop - columns.start, side * 3), np.uint8)
    _weigh(_turned(down, side, side), lanczos_weights(side, width)[columns], wide)
    part = np.empty((rows.stop - rows.start, len(wide) * 3), np.uint8)
    _weigh(_turned(wide, len(wide), side), lanczos_weights(side, height)[rows], part)
    return part.reshape(len(part), -1, 3)


def _turned(pixels: NDArray[np.uint8], first: int, second: int) -> NDArray[np.uint8]:
    """(first, second * 3) as (second, first * 3)."""
    return np.ascontiguousarray(pixels.reshape(first, second, 3).swapaxes(0, 1)).reshape(second, -1)


@lru_cache(maxsize=64)
def lanczos_weights(length: int, wanted: int) -> NDArray[np.int32]:
    """Pillow's weights for one axis, (wanted, length): what each pixel gives to each pixel of the result."""
    scale = length / wanted
    stretch = max(scale, 1.0)
    weights = np.zeros((wanted, length), np.int32)
    for place in range(wanted):
        centre = (place + 0.5) * scale
        first = max(int(centre - LOBES * stretch + 0.5), 0)
        last = min(int(centre + LOBES * stretch + 0.5), length)
        row = [_lanczos((pixel - centre + 0.5) * (1.0 / stretch)) for pixel in range(first, last)]
        total = 0.0
        for value in row:  # one after the other, as Pillow adds: another order rounds otherwise
            total += value
        for pixel, value in enumerate(row, first):
            share = value / total * (1 << FRACTION_BITS)
            weights[place, pixel] = int(share + (0.5 if share >= 0 else -0.5))
    weights.flags.writeable = False
    return weights


def _lanczos(x: float) -> float:
    if not -LOBES <= x < LOBES:
        return 0.0
    return _sinc(x) * _sinc(x / LOBES)


def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x *= math.pi
    return math.sin(x) / x


@njit(cache=True, nogil=True)
def _weigh(pixels, weights, result):
    """result[k] = sum over i of weights[k, i] * pixels[i], rounded and clipped to bytes; rows at once."""
    count, length = pixels.shape
    sums = np.empty(length, np.int32)
    for k in range(len(weights)):
        sums[:] = 1 << (FRACTION_BITS - 1)
        for i in range(count):
            weight = weights[k, i]
            if weight != 0:
                for n in range(length):
                    sums[n] += np.int32(pixels[i, n]) * weight
        for n in range(length):
            result[k, n] = min(max(sums[n] >> FRACTION_BITS, 0), 255)
