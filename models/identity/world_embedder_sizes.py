"""Sizes of the world's embedder; needs no torch, so that planning can name them."""

from __future__ import annotations

from models.identity.arcface_alignment import ARCFACE_FIVE_POINTS, ARCFACE_SIZE, PIXEL_CENTRE

WORLD_EMBEDDING_SIZE = 128
WORLD_CHIP_SIZE = 64
WORLD_NETWORK_WIDTHS = (24, 48, 96, 192)

_DRAWN_BACK = 0.80
"""Of ArcFace's own scale: its crop cuts the chin off, and chin and jaw belong to the person."""
_LIFTED = 2.0
"""The face sits so much higher in the chip, px: there is more of it below the five points than above."""

WORLD_FIVE_POINTS = tuple(
    (
        float((x + PIXEL_CENTRE - ARCFACE_SIZE / 2) * _DRAWN_BACK * WORLD_CHIP_SIZE / ARCFACE_SIZE)
        + WORLD_CHIP_SIZE / 2,
        float((y + PIXEL_CENTRE - ARCFACE_SIZE / 2) * _DRAWN_BACK * WORLD_CHIP_SIZE / ARCFACE_SIZE)
        + WORLD_CHIP_SIZE / 2
        - _LIFTED,
    )
    for x, y in ARCFACE_FIVE_POINTS
)
"""Positions in the 64-pixel chip, counted from the corner of the first pixel."""
