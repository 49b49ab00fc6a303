"""Small numeric helpers of the renderer, compiled by numba: ramps, bells, mixtures and repeatable noise.

None of the renderer's functions uses fast-math, so that a picture is the same bytes on every run.
"""

from __future__ import annotations

import math

from numba import njit


@njit
def clamp(value, low, high):
    """`value` limited to [low, high]."""
    return min(max(value, low), high)


@njit
def smoothstep(start, end, value):
    """0 before `start`, 1 after `end`, a smooth ramp between; works with start > end too."""
    share = clamp((value - start) / (end - start), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


@njit
def bell(distance, width):
    """A Gaussian of height 1 and standard deviation `width`, cut to 0 beyond four deviations."""
    scaled = distance / width
    square = scaled * scaled
    return 0.0 if square > 16.0 else math.exp(-0.5 * square)


@njit
def lerp(first, second, share):
    """`first` at share 0, `second` at share 1."""
    return first + (second - first) * share


@njit
def mix(colour, other, share):
    """The RGB triple between `colour` (share 0) and `other` (share 1)."""
    return (
        colour[0] + (other[0] - colour[0]) * share,
        colour[1] + (other[1] - colour[1]) * share,
        colour[2] + (other[2] - colour[2]) * share,
    )


@njit
def scaled(colour, factor):
    """The RGB triple times a number."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@njit
def tinted(colour, red, green, blue):
    """The RGB triple times one number per channel."""
    return colour[0] * red, colour[1] * green, colour[2] * blue


@njit
def lattice_noise(column, row, seed):
    """A repeatable pseudo-random number in [0, 1) for a cell of an integer lattice."""
    mixed = (int(column) * 374761393 + int(row) * 668265263 + int(seed) * 1274126177) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) / 4294967296.0


@njit
def smooth_noise(x, y, seed):
    """Value noise in [0, 1): lattice numbers joined by smooth ramps, one cell per unit."""
    column = math.floor(x)
    row = math.floor(y)
    across = smoothstep(0.0, 1.0, x - column)
    down = smoothstep(0.0, 1.0, y - row)
    first = lerp(lattice_noise(column, row, seed), lattice_noise(column + 1, row, seed), across)
    second = lerp(lattice_noise(column, row + 1, seed), lattice_noise(column + 1, row + 1, seed), across)
    return lerp(first, second, down)
