"""Small numeric helpers of the renderer, compiled by numba: ramps, bells, mixtures and repeatable noise.

None of the renderer's functions uses fast-math, so that a picture is the same bytes on every run; speed comes
from asking for little: no power, exponential or angle per sample where a product does.
"""

from __future__ import annotations

import math

from numba import njit


@njit(error_model="numpy")
def clamp(value, low, high):
    """`value` limited to [low, high]."""
    return min(max(value, low), high)


@njit(error_model="numpy")
def smoothstep(start, end, value):
    """0 before `start`, 1 after `end`, a smooth ramp between; works with start > end too."""
    share = clamp((value - start) / (end - start), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


@njit(error_model="numpy")
def bell(distance, width):
    """A hill of height 1: nearly a Gaussian of standard deviation `width`, and 0 beyond four deviations."""
    scaled = distance / width
    share = 1.0 - scaled * scaled / 16.0
    if share <= 0.0:
        return 0.0
    power = share * share  # (1 - s / 8)**8 tends to exp(-s), here with s half the squared distance
    power *= power
    return power * power


@njit(error_model="numpy")
def lerp(first, second, share):
    """`first` at share 0, `second` at share 1."""
    return first + (second - first) * share


@njit(error_model="numpy")
def mix(colour, other, share):
    """The RGB triple between `colour` (share 0) and `other` (share 1)."""
    return (
        colour[0] + (other[0] - colour[0]) * share,
        colour[1] + (other[1] - colour[1]) * share,
        colour[2] + (other[2] - colour[2]) * share,
    )


@njit(error_model="numpy")
def scaled(colour, factor):
    """The RGB triple times a number."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@njit(error_model="numpy")
def tinted(colour, red, green, blue):
    """The RGB triple times one number per channel."""
    return colour[0] * red, colour[1] * green, colour[2] * blue


@njit(error_model="numpy")
def lattice_noise(column, row, seed):
    """A repeatable pseudo-random number in [0, 1) for a cell of an integer lattice."""
    mixed = (int(column) * 374761393 + int(row) * 668265263 + int(seed) * 1274126177) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) * (1.0 / 4294967296.0)


@njit(error_model="numpy")
def smooth_noise(x, y, seed):
    """Value noise in [0, 1): lattice numbers joined by smooth ramps, one cell per unit."""
    column = math.floor(x)
    row = math.floor(y)
    across = smoothstep(0.0, 1.0, x - column)
    down = smoothstep(0.0, 1.0, y - row)
    first = lerp(lattice_noise(column, row, seed), lattice_noise(column + 1, row, seed), across)
    second = lerp(lattice_noise(column, row + 1, seed), lattice_noise(column + 1, row + 1, seed), across)
    return lerp(first, second, down)
