"""The gaze expert: the picture looks where the target looks.

Eyes are cut at the target's landmarks, which are found once, as the network behind was trained to see them:
an *outline* crop is one and a half times the distance of the eye's corners wide, in the network's own
proportions (the public estimator); a *box* is a fixed part of the picture, stretched (our network of the
world). The published program shows boxes to the public estimator (`CompatConfig.fixed_gaze_box`), and
brightens them past recognition (`washed_out_gaze`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.diffface.constants import IMAGE_SIZE
from models.diffface.experts.expert import Prepared, SwapPair, stacked
from models.diffface.experts.gaze_network import GazeNetwork
from models.diffface.randomness import Moment
from models.diffface.settings import DiffFaceSettings

EyeCrop = Literal["outline", "box"]
"""What a network was trained to see."""

EYES: Final = (range(36, 42), range(42, 48))
"""iBUG indices of the eye on the picture's left, and of the one on its right; corners are the first and the
fourth."""

EYE_WIDTHS: Final = 1.5
"""Width of a crop over the distance of the corners, as the public gaze estimator was trained."""

BOX_BESIDE: Final = 5.0
BOX_BESIDE_LINE: Final = 9.0
"""The published box: px at 256 beside the corners, and above and below the mean of the eye's points."""

GREY_GAIN, GREY_LIFT, GREY_RANGE = 128.0, 128.0, 255.0
"""What the published crop does to values that are in 0..1 already: 128 x + 128 of 255. That it is then
divided by 255 is our reading of it."""


def eye_boxes(landmarks_B682: Tensor, side: int, height: int, width: int, crop: EyeCrop) -> Tensor:
    """Boxes (B, 2, 4) of both eyes as left, top, right, bottom, px; the eye on the picture's left first.

    Args:
        landmarks_B682: px, iBUG order.
        side: of the picture, px.
        height, width: of the network's input, px.
        crop: an outline of the network's proportions, or the published box, which scales with the picture.
    """
    eyes_B262 = torch.stack([landmarks_B682[:, list(eye)] for eye in EYES], dim=1)
    corners_B222 = eyes_B262[:, :, [0, 3]]
    if crop == "box":
        scale = side / IMAGE_SIZE
        left = corners_B222[:, :, 0, 0] - BOX_BESIDE * scale
        right = corners_B222[:, :, 1, 0] + BOX_BESIDE * scale
        above = eyes_B262[..., 1].mean(dim=2) - BOX_BESIDE_LINE * scale
        below = eyes_B262[..., 1].mean(dim=2) + BOX_BESIDE_LINE * scale
        return torch.stack([left, above, right, below], dim=2)
    middle_B22 = corners_B222.mean(dim=2)
    half_B21 = EYE_WIDTHS / 2 * (corners_B222[:, :, 1] - corners_B222[:, :, 0]).norm(dim=2, keepdim=True)
    half_B22 = torch.cat([half_B21, half_B21 * (height / width)], dim=2)
    return torch.cat([middle_B22 - half_B22, middle_B22 + half_B22], dim=2)


def eye_crops(images_B3HW: Tensor, boxes_B24: Tensor, height: int, width: int) -> Tensor:
    """Grey pictures of both eyes (B, 2, height, width), the mean of RGB; differentiable in the picture.

    Pixels are interpolated linearly, and the picture's edge repeats outside.

    Args:
        images_B3HW: RGB in 0..1.
        boxes_B24: of `eye_boxes`.
        height, width: of a crop, px.
    """
    grey_B1HW = images_B3HW.mean(dim=1, keepdim=True)
    extent = boxes_B24.new_tensor([images_B3HW.shape[3], images_B3HW.shape[2]])
    columns = (torch.arange(width, device=boxes_B24.device, dtype=boxes_B24.dtype) + 0.5) / width
    rows = (torch.arange(height, device=boxes_B24.device, dtype=boxes_B24.dtype) + 0.5) / height
    parts_HW2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    eyes = []
    for box_B4 in boxes_B24.unbind(dim=1):
        first, size = box_B4[:, None, None, :2], (box_B4[:, 2:] - box_B4[:, :2])[:, None, None]
        grid_BHW2 = (first + parts_HW2 * size) / extent * 2 - 1
        eyes.append(
            functional.grid_sample(
                grey_B1HW, grid_BHW2.to(grey_B1HW), "bilinear", "border", align_corners=False
            )
        )
    return torch.cat(eyes, dim=1)


class GazeExpert:
    """Mean absolute difference of pitch and yaw to the target's, summed over both eyes.

    Pairs whose target has no landmarks have no gaze term; a note says so.

    Args:
        network: frozen, evaluating.
        crop: what it was trained to see.
    """

    name = "gaze"

    def __init__(self, network: GazeNetwork, crop: EyeCrop = "outline") -> None:
        self._network = network.eval()
        self._crop: EyeCrop = crop

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        """The weight inside its window of steps, 0 outside."""
        return settings.expert_weights.gaze_at(index)

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        """Keep where the target's eyes are and look."""
        if pair.target_landmarks_682 is None:
            return Prepared(note="gaze: the target has no landmarks, so its gaze does not guide the swap")
        height, width = self._network.config.height, self._network.config.width
        boxes_124 = eye_boxes(
            pair.target_landmarks_682[None],
            pair.target_3HW.shape[-1],
            height,
            width,
            "box" if settings.compat.fixed_gaze_box else self._crop,
        )
        with torch.no_grad():
            gaze = self._gaze(pair.target_3HW[None], boxes_124, settings)[0]
        return Prepared({"boxes": boxes_124[0], "gaze": gaze})

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        """(B,), 0 for rows without landmarks."""
        rows = [row for row, kept in enumerate(prepared) if kept.tensors]
        losses = images_B3HW.new_zeros(len(images_B3HW))
        if not rows:
            return losses
        seen = [prepared[row] for row in rows]
        gaze_R22 = self._gaze(images_B3HW[rows], stacked(seen, "boxes"), settings)
        difference_R = (gaze_R22 - stacked(seen, "gaze")).abs().mean(dim=2).sum(dim=1)
        return losses.index_copy(0, torch.tensor(rows, device=losses.device), difference_R)

    def _gaze(self, images_B3HW: Tensor, boxes_B24: Tensor, settings: DiffFaceSettings) -> Tensor:
        """Pitch and yaw (B, 2, 2) of both eyes."""
        config = self._network.config
        eyes = eye_crops(images_B3HW, boxes_B24, config.height, config.width)
        if settings.compat.washed_out_gaze:
            eyes = (eyes * GREY_GAIN + GREY_LIFT) / GREY_RANGE
        return self._network.gaze(eyes.flatten(0, 1)[:, None]).unflatten(0, (-1, 2))
