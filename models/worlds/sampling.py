"""Random people and random photographs.

Both samplers draw row by row from streams of their own, so the first rows for a seed do not depend on how
many rows are asked for. Every number is drawn from 2**53 values, so two seeds share no one and
no photograph: what is drawn from `held_out_seed(seed)` was never seen by what was trained on `seed`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.worlds.parameters import (
    ATTRIBUTE_NAMES,
    ATTRIBUTE_PARAMETERS,
    IDENTITY_NAMES,
    Attributes,
    Identities,
)

CROPS = ("face", "portrait", "bust")
"""Names of the values 0, 1 and 2 of the attribute `crop`."""
CROP_SHARES = (0.6, 0.3, 0.1)
OCCLUDED_SHARE = 0.1

_IDENTITY_STREAM = 1
_ATTRIBUTE_STREAM = 2
_SWITCH_STREAM = 3

SKIN_TONES = np.array(
    [
        [0.36, 0.23, 0.17],
        [0.50, 0.33, 0.24],
        [0.67, 0.46, 0.34],
        [0.80, 0.59, 0.46],
        [0.90, 0.71, 0.59],
        [0.95, 0.80, 0.71],
    ],
    np.float32,
)
HAIR_COLOURS = np.array(
    [
        [0.09, 0.07, 0.06],
        [0.21, 0.13, 0.08],
        [0.38, 0.23, 0.12],
        [0.72, 0.55, 0.30],
        [0.55, 0.22, 0.09],
        [0.62, 0.62, 0.62],
    ],
    np.float32,
)

HELD_OUT_STEP = 1_000_003
"""A prime far larger than any count of seeds that somebody numbers by hand."""


def held_out_seed(seed: int) -> int:
    """The seed of people and photographs for evaluation of what was trained on those of `seed`."""
    return seed + HELD_OUT_STEP


def sample_identities(seed: int, count: int) -> Identities:
    """`count` people, every parameter uniform over its range."""
    uniform = np.random.default_rng([seed, _IDENTITY_STREAM]).random((count, len(IDENTITY_NAMES)))
    return Identities((2 * uniform - 1).astype(np.float32))


def sample_attributes(
    seed: int, count: int, *, crops: Sequence[str] = CROPS, occluded: float = OCCLUDED_SHARE
) -> Attributes:
    """`count` photographs: pose, expression, gaze, light, skin tone, make-up, glasses, hair, background.

    `crops` are the crops to choose from, by `CROP_SHARES` among them; `occluded` is the share of photographs
    with a hand, a microphone or a scarf before the face. Neither changes any other number of a photograph.

    Raises `ValueError` for no crop, an unknown crop, or a share outside [0, 1].
    """
    if not crops or not set(crops) <= set(CROPS):
        raise ValueError(f"crops must be some of {', '.join(CROPS)}, got {tuple(crops)}")
    if not 0.0 <= occluded <= 1.0:
        raise ValueError(f"occluded must be a share from 0 to 1, got {occluded}")
    names = list(ATTRIBUTE_NAMES)
    shape = (count, len(names))
    uniform = np.random.default_rng([seed, _ATTRIBUTE_STREAM]).random(shape)
    switch = np.random.default_rng([seed, _SWITCH_STREAM]).random(shape)
    low = np.array([parameter.low for parameter in ATTRIBUTE_PARAMETERS])
    high = np.array([parameter.high for parameter in ATTRIBUTE_PARAMETERS])
    values = low + uniform * (high - low)

    def put(name: str, column: NDArray[np.floating]) -> None:
        values[:, names.index(name)] = column

    def draw(name: str) -> NDArray[np.floating]:
        return uniform[:, names.index(name)]

    def applied(name: str) -> NDArray[np.floating]:
        return switch[:, names.index(name)]

    def colour(prefix: str, base: NDArray[np.floating], spread: float) -> None:
        for channel, name in enumerate((f"{prefix}_red", f"{prefix}_green", f"{prefix}_blue")):
            put(name, base[:, channel] + spread * (2 * draw(name) - 1))

    for angle in ("yaw", "pitch", "roll"):
        # The mean of two uniforms: frontal faces are the most frequent, the extremes stay possible.
        reach = high[names.index(angle)]
        put(angle, reach * (draw(angle) + applied(angle) - 1))
    put("mouth_open", np.where(applied("mouth_open") < 0.5, 0.0, draw("mouth_open")))
    put("blink", np.where(applied("blink") < 0.08, 0.5 + 0.4 * draw("blink"), 0.22 * draw("blink")))
    for make_up, share in (("lipstick", 0.45), ("eye_shadow", 0.4), ("blush", 0.45)):
        put(make_up, np.where(applied(make_up) < share, 0.5 + 0.5 * draw(make_up), 0.0))
    put("lipstick_red", 0.45 + 0.5 * draw("lipstick_red"))
    put("lipstick_green", 0.4 * draw("lipstick_green"))
    put("lipstick_blue", 0.08 + 0.5 * draw("lipstick_blue"))
    colour("light", np.ones((count, 3)), 0.2)
    tone = applied("skin_red") * (len(SKIN_TONES) - 1)
    lower = np.minimum(tone.astype(np.int64), len(SKIN_TONES) - 2)
    share = (tone - lower)[:, None]
    colour("skin", SKIN_TONES[lower] * (1 - share) + SKIN_TONES[lower + 1] * share, 0.02)
    colour("hair", HAIR_COLOURS[(applied("hair_red") * len(HAIR_COLOURS)).astype(np.int64)], 0.04)
    put("glasses", np.floor(applied("glasses") * 8) - 5)
    colour("glasses", np.full((count, 3), 0.22), 0.2)
    put("hair_style", np.floor(draw("hair_style") * 4))
    chosen = [CROPS.index(crop) for crop in CROPS if crop in crops]
    edges = np.cumsum(np.array(CROP_SHARES)[chosen])
    put("crop", np.array(chosen)[np.searchsorted(edges[:-1] / edges[-1], draw("crop"), side="right")])
    put("occluder", np.where(applied("occluder") < occluded, 1 + np.floor(draw("occluder") * 3), 0.0))
    colour("occluder", np.repeat(0.15 + 0.6 * applied("occluder_red")[:, None], 3, axis=1), 0.22)
    # Walls and clothes: any lightness, moderate colour.
    for surface, darkest, spread in (("background", 0.22, 0.20), ("cloth", 0.15, 0.22)):
        lightness = darkest + 0.6 * applied(f"{surface}_red")[:, None]
        colour(surface, np.repeat(lightness, 3, axis=1), spread)
    return Attributes(np.clip(values, low, high).astype(np.float32))
