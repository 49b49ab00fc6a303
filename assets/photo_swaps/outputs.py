"""What a swap gives: the picture, where it differs from the photograph, the faces, and a grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assets.photo_swaps.faces import PhotoFace
from assets.previews import tile_row
from models.faces.alignment import place_mask
from models.faces.frame import square_picture
from models.faces.images import Image, Mask
from resources.photos.reasons import RowError

GRID_TILE = 128
"""Smallest side of a grid's tile, px; a larger model's pictures keep their size."""


@dataclass
class TargetFace:
    """One face of a target on its way through the model; in raw-frame mode the whole frame.

    Attributes:
        face: the aligned crop; None in raw-frame mode.
        frame: uint8 (S, S, 3), the crop or the whole target at the model's size.
        condition: uint8 (S, S, 3), what the condition branch sees.
        mask_CC: bool, the visible face in the crop; None in raw-frame mode.
        row: inputs of `swap_rows`.
        swapped: uint8 (S, S, 3), what the model made.
        problem: why this face could not be swapped.
    """

    face: PhotoFace | None = None
    frame: Image | None = None
    condition: Image | None = None
    mask_CC: Mask | None = None
    row: dict[str, Any] = field(default_factory=dict)
    swapped: Image | None = None
    problem: RowError | None = None

    def summary(self) -> dict[str, Any]:
        """Place and box of the face, and whether it was swapped, for manifests."""
        told: dict[str, Any] = {}
        if self.face is not None:
            told = {"index": self.face.index, "box": [round(float(side), 1) for side in self.face.crop.box_4]}
        if self.problem is not None:
            return told | {"reason": self.problem.reason.value, "detail": self.problem.detail}
        return told | {"swapped": True}


@dataclass(frozen=True)
class SwappedPhoto:
    """A finished swap.

    Attributes:
        picture: uint8 RGB; the photograph with its new faces, or the model's square in raw-frame mode.
        mask_HW: bool, all that may differ from the photograph; None in raw-frame mode.
        faces: every chosen face, swapped or with a problem.
        grid: uint8 RGB, tiles side by side, one row per swapped face; None unless asked for.
    """

    picture: Image
    mask_HW: Mask | None
    faces: list[TargetFace]
    grid: Image | None


def paste_faces(photo: Image, faces: list[TargetFace], feather: float) -> tuple[Image, Mask]:
    """The photograph with swapped faces put back, and where it may differ from it.

    Only what the parsing calls visible face is replaced, so occluders, hair and glasses' surroundings stay;
    the fade lies inside, and every pixel outside the mask is the photograph's own to the bit.

    Args:
        photo: uint8 (H, W, 3).
        faces: those with `swapped` set are pasted, in order.
        feather: width of the fade in distances between the eyes.
    """
    result = photo.copy()
    changed = np.zeros(photo.shape[:2], np.bool_)
    for item in faces:
        if item.swapped is None or item.face is None or item.mask_CC is None:
            continue
        crop = item.face.crop
        edited = square_picture(item.swapped, crop.image.shape[0])
        result = crop.paste(result, edited, item.mask_CC, feather * crop.inter_ocular)
        changed |= place_mask(item.mask_CC, crop.matrix_2x3, photo.shape[:2])
    return result, changed


def side_by_side(source: Image, faces: list[TargetFace], *, with_target: bool) -> Image:
    """APPLE's grid: source, condition, result; after inversion source, target, condition, result.

    One row for each swapped face.
    """
    rows = []
    for item in faces:
        if item.swapped is None or item.frame is None or item.condition is None:
            continue
        tiles = [source, *([item.frame] if with_target else []), item.condition, item.swapped]
        rows.append(tile_row(tiles, max(GRID_TILE, item.swapped.shape[0])))
    return np.concatenate(rows)
