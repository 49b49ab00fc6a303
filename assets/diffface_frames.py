"""Pairs as DiffFace takes them: square pictures of the denoiser's side, masks and points.

As in the published program the whole photograph is the frame, brought to a square without its shape; where
faces are cut out first, the aligned crop is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from assets.stage import Row
from models.diffface.blending import face_mask
from models.diffface.compat import CompatConfig
from models.diffface.networks import DiffFaceNetworks
from models.diffface.settings import DiffFaceSettings
from models.diffface.swap_results import SwapResult
from models.faces.frame import square_picture
from models.faces.images import Image, Mask, Points
from models.faces.parsing import decode_codes, unpack_mask
from resources.photos.reasons import Reason, RowError


@dataclass(frozen=True)
class DiffFacePair:
    """One pair at the denoiser's side S.

    Attributes:
        source: uint8 (S, S, 3).
        target: uint8 (S, S, 3).
        mask: bool (S, S), the target's visible face.
        identity_D: the source's embedding.
        source_points: (68, 2) px.
        target_points: (68, 2) px.
        number: what the pair's random numbers come from, with the settings' seed.
    """

    source: Image
    target: Image
    mask: Mask
    identity_D: np.ndarray
    source_points: Points
    target_points: Points
    number: int


def visible_face(row: Row, compat: CompatConfig) -> Mask:
    """The face that is swapped in an annotated photograph, bool (H, W): what is in front of it stays."""
    size = row["image"].shape[:2]
    return face_mask(decode_codes(row["parsing"], size), compat) & unpack_mask(row["visible_face"], size)


def mask_at(mask: Mask, side: int) -> Mask:
    """A mask at another size, bool (side, side), by the nearest pixel."""
    small = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    return small.astype(bool)


def points_at(points: Points, image: Image, side: int) -> Points:
    """Points of a photograph as pixels of its square frame."""
    height, width = image.shape[:2]
    return (points.reshape(68, 2) * [side / width, side / height]).astype(np.float32)


def diffface_pair(
    source: Row, target: Row, identity_D: np.ndarray, *, side: int, number: int, compat: CompatConfig
) -> DiffFacePair:
    """Bring two annotated photographs (`image`, `landmarks_68`, the target's masks too) to the frame.

    Raises RowError where nothing of the target's face is left to be swapped.
    """
    mask = mask_at(visible_face(target, compat), side)
    if not mask.any():
        raise RowError(Reason.FACE_TOO_SMALL, f"no pixel of the target's face is left at {side} px")
    return DiffFacePair(
        source=square_picture(source["image"], side),
        target=square_picture(target["image"], side),
        mask=mask,
        identity_D=np.asarray(identity_D, np.float32).ravel(),
        source_points=points_at(np.asarray(source["landmarks_68"]), source["image"], side),
        target_points=points_at(np.asarray(target["landmarks_68"]), target["image"], side),
        number=number,
    )


def swap_pairs(
    networks: DiffFaceNetworks,
    pairs: Sequence[DiffFacePair],
    settings: DiffFaceSettings,
    *,
    figures: bool = False,
) -> SwapResult:
    """All repeats of all pairs, `settings.batch_size` at a time."""
    return networks.swapper.swap(
        np.stack([pair.source for pair in pairs]),
        np.stack([pair.identity_D for pair in pairs]),
        np.stack([pair.target for pair in pairs]),
        np.stack([pair.mask for pair in pairs]),
        settings,
        [pair.number for pair in pairs],
        target_landmarks=[pair.target_points for pair in pairs],
        source_landmarks=[pair.source_points for pair in pairs],
        figures=figures,
    )


def why_stopped(result: SwapResult, place: int) -> RowError | None:
    """Why no repeat of a pair gave a picture; None where one did."""
    best = result.best(place)
    if best.reason is None:
        return None
    return RowError(Reason.NON_FINITE, f"{best.reason}: {best.reason.advice}")
