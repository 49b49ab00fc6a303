"""The six-panel figure of a swap: source, target, mask, parse of the target, parse of now, swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.faces.constants import CLASS_NAMES, PALETTE
from models.faces.images import Image, require_mask, require_rgb

PANELS = ("source", "target", "mask", "target parse", "current parse", "swap")
"""From left to right."""

FIGURES_PER_SWAP = 5
"""Figures over the N steps of the respacing; one more shows the end."""


@dataclass(frozen=True)
class Figure:
    """A six-panel figure of one step.

    Attributes:
        image_HWC: uint8, six pictures side by side.
        index: the step's number after respacing; None for the finished swap.
    """

    image_HWC: Image
    index: int | None


def shows_figure(taken: int, steps: int) -> bool:
    """Whether a figure shows the step that is taken after `taken` others, of N = `steps` in all."""
    return taken % max(1, steps // FIGURES_PER_SWAP) == 0


def six_panels(
    source: Image,
    target: Image,
    mask: NDArray[np.bool_],
    target_codes: NDArray[np.uint8],
    current_codes: NDArray[np.uint8],
    swap: Image,
) -> Image:
    """Put the six pictures side by side, uint8 (H, 6 W, 3).

    Args:
        source, target, swap: uint8 (H, W, 3).
        mask: (H, W); white where the target's face is.
        target_codes, current_codes: class codes (H, W) of the target and of the picture at this step.

    Raises:
        ValueError: another type, or sizes that differ; names the panel.
    """
    size = require_rgb(target, PANELS[1]).shape[:2]
    white = np.repeat(require_mask(mask, size, PANELS[2])[..., None], 3, axis=2).astype(np.uint8) * 255
    panels = [source, target, white, coloured(target_codes), coloured(current_codes), swap]
    for name, panel in zip(PANELS, panels, strict=True):
        if require_rgb(panel, name).shape[:2] != size:
            raise ValueError(f"the panel {name} is {panel.shape[:2]} px high and wide, the target {size}")
    return np.concatenate(panels, axis=1)


def coloured(codes_HW: NDArray[np.uint8]) -> Image:
    """A parse as a picture, uint8 (H, W, 3), in the colours of `models.faces.constants.PALETTE`.

    Raises:
        ValueError: a code that is no class.
    """
    if codes_HW.size and int(codes_HW.max()) >= len(CLASS_NAMES):
        raise ValueError(f"class code {int(codes_HW.max())} is not among the {len(CLASS_NAMES)} classes")
    return np.array(PALETTE, np.uint8)[codes_HW]


def contact_sheet(figures: Sequence[Figure]) -> Image:
    """Figures under one another in the order given, uint8 (sum of heights, 6 W, 3).

    Raises:
        ValueError: none, or widths that differ.
    """
    if not figures:
        raise ValueError("there is no figure to put on a sheet; swap with panels")
    return np.concatenate([require_rgb(figure.image_HWC, "figure") for figure in figures], axis=0)
