"""What a swap is made from: pictures, identities, masks and landmarks of every pair, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffface.experts.expert import SwapPair
from models.faces.images import Points, require_points


@dataclass(frozen=True)
class SwapInputs:
    """N pairs.

    Attributes:
        sources_NHWC: uint8 RGB of the denoiser's size.
        identity_ND: the sources' embeddings; their length does not matter.
        targets_NHWC: uint8 RGB of the same size.
        masks_NHW: bool, where each target's face is.
        row_numbers: number of each pair, which its random numbers come from.
        target_landmarks: (68, 2) px of each target, iBUG order, or None; None for all of them.
        source_landmarks: the same of the sources.
    """

    sources_NHWC: NDArray[np.uint8]
    identity_ND: NDArray[np.floating]
    targets_NHWC: NDArray[np.uint8]
    masks_NHW: NDArray[np.bool_]
    row_numbers: Sequence[int]
    target_landmarks: Sequence[Points | None] | None = None
    source_landmarks: Sequence[Points | None] | None = None

    def check(self, side: int, identity_dim: int) -> None:
        """Hold everything to the denoiser's size.

        Raises:
            ValueError: a wrong type, shape or count; an identity that is not finite or zero. Names which.
        """
        count = len(self.sources_NHWC)
        for name, images in (("sources", self.sources_NHWC), ("targets", self.targets_NHWC)):
            if images.dtype != np.uint8 or images.shape != (count, side, side, 3):
                raise ValueError(
                    f"{name} must be uint8 ({count}, {side}, {side}, 3), the denoiser's size, "
                    f"got {images.dtype} {images.shape}"
                )
        if self.masks_NHW.dtype != np.bool_ or self.masks_NHW.shape != (count, side, side):
            raise ValueError(
                f"masks must be bool ({count}, {side}, {side}), got {self.masks_NHW.dtype} "
                f"{self.masks_NHW.shape}"
            )
        if self.identity_ND.shape != (count, identity_dim):
            raise ValueError(
                f"the denoiser takes identities ({count}, {identity_dim}), got {self.identity_ND.shape}"
            )
        lengths = np.linalg.norm(self.identity_ND.astype(np.float64), axis=1)
        for row in range(count):
            if not np.isfinite(lengths[row]) or lengths[row] == 0:
                raise ValueError(f"the identity of row {row} is zero or not finite; embed its source again")
        if len(self.row_numbers) != count or min(self.row_numbers, default=0) < 0:
            raise ValueError(f"{count} pairs need as many numbers, 0 or more, got {list(self.row_numbers)}")
        for name, landmarks in (("target", self.target_landmarks), ("source", self.source_landmarks)):
            if landmarks is None:
                continue
            if len(landmarks) != count:
                raise ValueError(f"{len(landmarks)} sets of {name} landmarks for {count} pairs")
            for row, points in enumerate(landmarks):
                if points is not None:
                    require_points(points, (68, 2), f"{name}_landmarks of row {row}")

    def pair(self, row: int, device: torch.device) -> SwapPair:
        """One pair as tensors on a device; the identity is brought to length 1."""
        identity = torch.from_numpy(np.asarray(self.identity_ND[row], np.float32))
        return SwapPair(
            source_3HW=_picture(self.sources_NHWC[row], device),
            identity_D=(identity / identity.norm()).to(device),
            target_3HW=_picture(self.targets_NHWC[row], device),
            mask_1HW=torch.from_numpy(np.asarray(self.masks_NHW[row], np.float32))[None].to(device),
            target_landmarks_682=_points(self.target_landmarks, row, device),
            source_landmarks_682=_points(self.source_landmarks, row, device),
        )


def _picture(image_HWC: NDArray[np.uint8], device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(image_HWC)).to(device)
    return pixels.permute(2, 0, 1).float() / 255


def _points(landmarks: Sequence[Points | None] | None, row: int, device: torch.device) -> Tensor | None:
    points = None if landmarks is None else landmarks[row]
    return None if points is None else torch.from_numpy(np.asarray(points, np.float32)).to(device)
