"""The procedural world's own face embedder: who a rendered face is, whatever its pose, light and make-up.

What ArcFace is to photographs, this small residual network is to the faces of `models.worlds`. It was trained
on them alone (`models.identity.world_embedder_training`) and says nothing about real people. Its chip is the
64-pixel face by ArcFace's five points, drawn back so that chin and jaw are inside.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models.faces.alignment import umeyama, warp
from models.faces.images import Image, Points, require_points
from models.identity.world_embedder_sizes import (
    WORLD_CHIP_SIZE,
    WORLD_EMBEDDING_SIZE,
    WORLD_FIVE_POINTS,
    WORLD_NETWORK_WIDTHS,
)

FORMAT = "orchard-world-embedder-1"
METADATA_KEY = "orchard"
BATCH_SIZE = 64
"""Chips per forward pass; bounds the memory of `WorldEmbedder.embed`."""


class WorldEmbedderError(ValueError):
    """The file is not the world's embedder."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions that halve the picture, beside an averaged short cut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(channels_out)
        self.refine = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.refine_norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return (B, C', H / 2, W / 2)."""
        refined = torch.relu(self.reduce_norm(self.reduce(features_BCHW)))
        return torch.relu(self.refine_norm(self.refine(refined)) + self.shortcut(features_BCHW))


class WorldNetwork(nn.Module):
    """From chips to unit embeddings; 1.1 million parameters."""

    def __init__(self, widths: tuple[int, ...] = WORLD_NETWORK_WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(ResidualBlock(*pair) for pair in itertools.pairwise(widths)))
        side = WORLD_CHIP_SIZE >> len(widths)
        self.head = nn.Linear(widths[-1] * side * side, WORLD_EMBEDDING_SIZE)

    def features(self, chips_B3HW: Tensor) -> Tensor:
        """Return embeddings (B, 128) before they are brought to length 1."""
        stem = torch.relu(self.stem_norm(self.stem(chips_B3HW.contiguous(memory_format=torch.channels_last))))
        return self.head(self.blocks(stem).flatten(1))

    def forward(self, chips_B3HW: Tensor) -> Tensor:
        """Return embeddings (B, 128) of length 1 of chips (B, 3, 64, 64) in [-1, 1], RGB."""
        return functional.normalize(self.features(chips_B3HW), dim=-1)


def world_chip(image: Image, points_52: Points) -> NDArray[np.uint8]:
    """The chip of a face, uint8 (64, 64, 3); the picture's border repeats outside it.

    Args:
        image: uint8 RGB (H, W, 3).
        points_52: pixels, in the order of `models.identity.arcface_alignment`.

    Raises:
        ValueError: not an RGB image, or unusable points.
    """
    points = require_points(points_52, (5, 2), "points_52")
    return warp(image, umeyama(points, np.array(WORLD_FIVE_POINTS, np.float32)), WORLD_CHIP_SIZE)


class WorldEmbedder:
    """The network behind an alignment to five points.

    Args:
        path: a file of `save_world_network`.
        device: torch device name.

    Raises:
        FileNotFoundError: there is no such file.
        WorldEmbedderError: the file is not that network.
    """

    name = "orchard_world_1"

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.device = device
        self.network = load_world_network(path, device)

    def embed(self, images: Sequence[Image], landmark5: Sequence[Points]) -> NDArray[np.float32]:
        """Embed one face of each image.

        Args:
            images: uint8 RGB (H, W, 3), upright, any sizes.
            landmark5: (5, 2) pixels of each, in the order of `models.identity.arcface_alignment`.

        Returns:
            (N, 128) float32 of length 1; compare by cosine.

        Raises:
            ValueError: different counts, an image that is not uint8 RGB, or points that are unusable.
        """
        if len(images) != len(landmark5):
            raise ValueError(f"{len(images)} images but {len(landmark5)} sets of five points")
        chips = [world_chip(image, points) for image, points in zip(images, landmark5, strict=True)]
        if not chips:
            return np.empty((0, WORLD_EMBEDDING_SIZE), np.float32)
        return self.embed_chips(np.stack(chips))

    @torch.inference_mode()
    def embed_chips(self, chips_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed chips (N, 64, 64, 3) uint8 RGB that are aligned already; (N, 128) float32 of length 1."""
        rows = [
            self.network(chips_to_tensor(chips_NHW3[start : start + BATCH_SIZE]).to(self.device)).cpu()
            for start in range(0, len(chips_NHW3), BATCH_SIZE)
        ]
        return torch.cat(rows).numpy() if rows else np.empty((0, WORLD_EMBEDDING_SIZE), np.float32)


def chips_to_tensor(chips_NHW3: NDArray[np.uint8]) -> Tensor:
    """Return what the network takes: float32 (N, 3, 64, 64) in [-1, 1].

    Raises:
        ValueError: another type or shape.
    """
    if chips_NHW3.dtype != np.uint8 or chips_NHW3.shape[1:] != (WORLD_CHIP_SIZE, WORLD_CHIP_SIZE, 3):
        raise ValueError(
            f"expected uint8 chips (N, {WORLD_CHIP_SIZE}, {WORLD_CHIP_SIZE}, 3), "
            f"got {chips_NHW3.dtype} {chips_NHW3.shape}"
        )
    return torch.from_numpy(chips_NHW3).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def save_world_network(path: Path, network: WorldNetwork) -> None:
    """Write the network to one file; convolutions and head as float16, statistics as float32."""
    learned = {name for name, value in network.named_parameters() if value.ndim > 1}
    tensors = {
        name: value.detach().to("cpu", torch.float16 if name in learned else torch.float32).contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={METADATA_KEY: json.dumps({"format": FORMAT})})
    unfinished.replace(path)


def load_world_network(path: str | Path, device: str = "cpu") -> WorldNetwork:
    """Load a file of `save_world_network` in float32, frozen, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        WorldEmbedderError: it is another file, or tensors are missing, unexpected or wrongly shaped.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no embedder of the world at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        found = json.loads(metadata.get(METADATA_KEY, "{}")).get("format")
        if found != FORMAT:
            raise WorldEmbedderError(f"{path} has format {found!r}, the world's embedder has {FORMAT!r}")
        tensors = {name: value.float() for name, value in load_file(path).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise WorldEmbedderError(f"{path} is not the world's embedder: {error}") from error
    network = WorldNetwork()
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    tensors.update({name: torch.zeros((), dtype=torch.long) for name in counters})
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WorldEmbedderError(f"{path} is not the world's embedder: {error}") from error
    return network.requires_grad_(requires_grad=False).eval().to(device)
