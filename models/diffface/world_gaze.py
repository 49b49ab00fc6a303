"""A small gaze network for pictures of the procedural world: the gaze expert's stacked hourglass, shrunk.

It reads eleven points of one eye (six of the lids, five of the iris), and pitch and yaw as seen from the
camera, from the box round an eye that the gaze expert cuts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.diffface.experts.gaze import eye_boxes, eye_crops
from models.diffface.experts.gaze_network import GazeNetwork, GazeNetworkConfig, GazeOutput
from models.diffface.network_files import fill_network, read_network, save_network
from models.diffface.world_expert_data import EYE_POINTS

FORMAT = "orchard-world-gaze-1"
HEAT_SPREAD = 1.0
"""Standard deviation of a point's heat map, px of the heat map."""
HEAT_WEIGHT, POINT_WEIGHT, GAZE_WEIGHT = 20.0, 1.0, 4.0


def world_gaze_config() -> GazeNetworkConfig:
    """Two hourglasses of 16 channels, eyes of 24 x 40 px."""
    return GazeNetworkConfig(
        nstack=2,
        nfeatures=16,
        nlandmarks=EYE_POINTS,
        height=24,
        width=40,
        levels=3,
        stem_width=16,
        wide_width=24,
        gaze_hidden=64,
    )


class WorldGaze(GazeNetwork):
    """The gaze network at the world's size."""

    def __init__(self, config: GazeNetworkConfig | None = None) -> None:
        super().__init__(config or world_gaze_config())


def eye_batch(
    images_B3HW: Tensor,
    landmarks_B682: NDArray[np.float32],
    eyes_B2K2: NDArray[np.float32],
    gaze_B2: NDArray[np.float32],
    config: GazeNetworkConfig,
    rng: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return eyes (2B, 1, h, w), points (2B, 11, 2) as row and column of the heat maps, and gaze (2B, 2).

    Landmarks and eyes are given in shares of the picture's side; an eye is the box that
    `models.diffface.experts.gaze` cuts, and points outside are moved to its edge. With `rng` the boxes move
    and stretch by some per cent, as those of estimated landmarks do.
    """
    side = images_B3HW.shape[-1]
    landmarks = torch.from_numpy(landmarks_B682) * side
    boxes = eye_boxes(landmarks, side, config.height, config.width, "box").numpy()
    if rng is not None:
        centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
        centre = centre + 0.08 * half * rng.standard_normal(centre.shape)
        half = half * (1 + 0.1 * rng.standard_normal(half.shape)).clip(0.7, 1.4)
        boxes = np.concatenate([centre - half, centre + half], axis=2).astype(np.float32)
    eyes = eye_crops(images_B3HW, torch.from_numpy(boxes), config.height, config.width)
    first, last = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    inside = (eyes_B2K2 * side - first) / (last - first)
    places = inside.reshape(-1, EYE_POINTS, 2)[:, :, ::-1] * [config.height // 2, config.width // 2] - 0.5
    wanted = torch.from_numpy(places.astype(np.float32))
    most = wanted.new_tensor([config.height // 2 - 1, config.width // 2 - 1])
    gaze = torch.from_numpy(np.repeat(gaze_B2, 2, axis=0))
    return eyes.flatten(0, 1)[:, None], torch.minimum(wanted.clamp(min=0), most), gaze


def gaze_loss(output: GazeOutput, points_BL2: Tensor, gaze_B2: Tensor) -> Tensor:
    """Return the loss of a batch: heat maps of every hourglass, places of the last, and gaze."""
    height, width = output.heatmaps_BSLHW.shape[-2:]
    rows = torch.arange(height)[:, None] - points_BL2[:, :, None, None, 0]
    columns = torch.arange(width)[None, :] - points_BL2[:, :, None, None, 1]
    heat = torch.exp(-(rows**2 + columns**2) / (2 * HEAT_SPREAD**2))
    heat_loss = functional.mse_loss(output.heatmaps_BSLHW, heat[:, None].expand_as(output.heatmaps_BSLHW))
    point_loss = functional.smooth_l1_loss(output.landmarks_BL2, points_BL2)
    look_loss = functional.l1_loss(output.gaze_B2, gaze_B2)
    return HEAT_WEIGHT * heat_loss + POINT_WEIGHT * point_loss + GAZE_WEIGHT * look_loss


def save_world_gaze(path: Path, network: WorldGaze) -> None:
    """Write the network to one file."""
    save_network(path, network, FORMAT, network.config.model_dump(mode="json"))


def load_world_gaze(path: str | Path, device: str = "cpu") -> WorldGaze:
    """Load a file of `save_world_gaze`, frozen, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: it is another file.
    """
    config, tensors = read_network(path, FORMAT)
    network = WorldGaze(GazeNetworkConfig.model_validate(config))
    fill_network(network, tensors, path)
    return network.to(device)
