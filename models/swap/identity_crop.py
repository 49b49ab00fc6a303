"""What the identity loss sees: a differentiable crop of the face, and the network behind it.

The default crop is aligned: a similarity brings the five points of the target to the network's template, and
every output pixel averages the picture bilinearly, so that gradients reach all of the face. APPLE shows the
network the whole frame at 112 pixels by nearest neighbours; that is kept as `nearest_full_frame`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from models.identity.dlib_resnet import load_dlib_resnet
from models.identity.ir_se50 import load_ir_se50
from models.identity.ir_se_sizes import IR_SE50, SIMSWAP_ARCFACE
from models.identity.loss_networks import CropName, FaceEncoderConfig, LossNetworkName
from models.identity.simswap_arcface import load_simswap_arcface
from models.identity.world_embedder import load_world_network

REFACE_SIDE = 256
REFACE_ROWS = slice(35, 223)
REFACE_COLUMNS = slice(32, 220)
"""The part of a frame, averaged to 256 x 256, that REFace shows to IR-SE50."""

SCALE_SLACK = 1e-4
"""A crop at the picture's own resolution, but for rounding, is sampled once per pixel."""

MOST_SAMPLES = 64
"""Samples per output pixel and axis at most; a crop of 112 px then covers 7,000 px of a photograph."""


def similarities(points_BN2: Tensor, template_N2: Tensor) -> Tensor:
    """Similarities (rotation, uniform scale, shift) of least squared error, (B, 2, 3).

    In the plane this is Umeyama's solution in closed form.

    Args:
        points_BN2: (B, N, 2).
        template_N2: (N, 2) where they should go.

    Raises:
        ValueError: points that are not finite, or all in one place; names the first such row.
    """
    centre_B12 = points_BN2.mean(dim=1, keepdim=True)
    goal_12 = template_N2.mean(dim=0, keepdim=True)
    x, y = (points_BN2 - centre_B12).unbind(dim=2)
    u, v = (template_N2 - goal_12).unbind(dim=1)
    spread_B = (x * x + y * y).sum(dim=1)
    unusable = torch.nonzero(~(spread_B > 1e-6)).flatten().tolist()
    if unusable:
        raise ValueError(f"points of row {unusable[0]} are not finite or all in one place: no face to crop")
    cosine_B = (x * u + y * v).sum(dim=1) / spread_B
    sine_B = (x * v - y * u).sum(dim=1) / spread_B
    turn_B22 = torch.stack([cosine_B, -sine_B, sine_B, cosine_B], dim=1).reshape(-1, 2, 2)
    shift_B21 = goal_12[:, :, None] - turn_B22 @ centre_B12.transpose(1, 2)
    return torch.cat([turn_B22, shift_B21], dim=2)


def aligned_crop(images_BCHW: Tensor, matrices_B23: Tensor, size: int, *, border: str) -> Tensor:
    """Square crops by similarities, (B, C, size, size); differentiable in the pictures.

    A crop that enlarges is bilinear interpolation, as of OpenCV's `warpAffine`. One that shrinks by a factor
    s averages ceil(s) x ceil(s) bilinear samples per output pixel, so that nothing aliases and every pixel of
    the face gets its share of the gradient. Each row is what it would be alone.

    Args:
        images_BCHW: floating point.
        matrices_B23: picture to crop, both counted from the corner of the first pixel.
        size: side of the crop, px.
        border: outside the picture, "black" or "repeat" its edge.
    """
    if border not in ("black", "repeat"):
        raise ValueError(f"border is black or repeat, not {border!r}")
    padding = "zeros" if border == "black" else "border"
    scales = torch.linalg.det(matrices_B23[:, :, :2].double()).abs().sqrt().tolist()
    samples = [min(MOST_SAMPLES, max(1, math.ceil(1 / scale - SCALE_SLACK))) for scale in scales]
    crops: list[Tensor] = [images_BCHW.new_empty(0)] * len(samples)
    for count in sorted(set(samples)):
        rows = [row for row, value in enumerate(samples) if value == count]
        crop = _sample(images_BCHW[rows], matrices_B23[rows], size, count, padding)
        for row, part in zip(rows, crop, strict=True):
            crops[row] = part
    return torch.stack(crops) if crops else images_BCHW.new_empty((0, images_BCHW.shape[1], size, size))


def _sample(images_BCHW: Tensor, matrices_B23: Tensor, size: int, count: int, padding: str) -> Tensor:
    """Crops with `count` samples per output pixel and axis."""
    height, width = images_BCHW.shape[2:]
    # the grid is laid in double precision: half floats cannot tell neighbouring pixels apart
    matrices = matrices_B23.double()
    steps = (torch.arange(size * count, device=images_BCHW.device, dtype=torch.float64) + 0.5) / count
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([columns, rows], dim=2).reshape(1, -1, 2) - matrices[:, None, :, 2]
    places = offsets @ torch.linalg.inv(matrices[:, :, :2]).transpose(1, 2)
    extent = places.new_tensor([width, height])
    grid = (places / extent * 2 - 1).reshape(-1, size * count, size * count, 2).to(images_BCHW.dtype)
    crop = functional.grid_sample(images_BCHW, grid, "bilinear", padding, align_corners=False)
    return functional.avg_pool2d(crop, count) if count > 1 else crop


def full_frame(images_BCHW: Tensor, size: int) -> Tensor:
    """The whole frame at `size` px by nearest pixels, as APPLE shows it (B, C, size, size)."""
    return functional.interpolate(images_BCHW, (size, size), mode="nearest")


def reface_crop(images_BCHW: Tensor, size: int) -> Tensor:
    """REFace's fixed part of the frame, averaged to `size` px (B, C, size, size)."""
    pooled = functional.adaptive_avg_pool2d(images_BCHW, REFACE_SIDE)
    return functional.adaptive_avg_pool2d(pooled[:, :, REFACE_ROWS, REFACE_COLUMNS], size)


class CroppedFaceEncoder:
    """A `FaceEncoder` of `models.swap.losses`: the crop, then the network, in single precision.

    Args:
        network: takes (B, 3, size, size) RGB in 0..1.
        config: which network it is, and which crop it is shown.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], config: FaceEncoderConfig) -> None:
        self.network = network
        self.config = config
        self._template_52 = torch.from_numpy(config.facts.template_52)

    def __call__(self, images_BCHW: Tensor, points_B52: Tensor | None = None) -> Tensor:
        """Embed one face of each picture; gradients flow to the pictures.

        Args:
            images_BCHW: (B, 3, H, W) RGB in 0..1, of any size and type.
            points_B52: five points in pixels of these pictures, from
                `models.identity.loss_networks.frame_points` of the same network. The aligned crop needs them;
                the others ignore them.

        Returns:
            (B, D) float32; compare by cosine.

        Raises:
            ValueError: no points for an aligned crop, another number of them, or unusable ones.
        """
        return self.network(self.crop(images_BCHW, points_B52))

    def crop(self, images_BCHW: Tensor, points_B52: Tensor | None = None) -> Tensor:
        """What the network is shown, (B, 3, size, size) float32 in 0..1. Arguments as of the call."""
        images, facts = images_BCHW.float(), self.config.facts
        if self.config.crop == "nearest_full_frame":
            return full_frame(images, facts.size)
        if self.config.crop == "reface_crop":
            return reface_crop(images, facts.size)
        if points_B52 is None:
            raise ValueError(
                "the aligned crop of the identity loss needs the target's five points; give points_B52, or "
                "choose the crop nearest_full_frame"
            )
        if tuple(points_B52.shape) != (len(images), 5, 2):
            raise ValueError(f"expected points ({len(images)}, 5, 2), got {tuple(points_B52.shape)}")
        points = points_B52.detach().to(images)
        matrices_B23 = similarities(points, self._template_52.to(images))
        return aligned_crop(images, matrices_B23, facts.size, border=facts.border)


def face_encoder(
    kind: LossNetworkName, path: str | Path, crop: CropName = "aligned", device: str = "cpu"
) -> CroppedFaceEncoder:
    """The encoder of an identity loss, frozen, from the file of its weight role.

    Args:
        kind: which network.
        path: its file: safetensors, or dlib's `.dat`.
        crop: what it is shown.
        device: torch device name.

    Raises:
        FileNotFoundError: there is no such file.
        WeightMismatch, DatError, WorldEmbedderError: the file is of another network.
        ValueError: a crop that is not for this network.
    """
    return configured_face_encoder(FaceEncoderConfig(network=kind, crop=crop), path, device)


def configured_face_encoder(
    config: FaceEncoderConfig, path: str | Path, device: str = "cpu"
) -> CroppedFaceEncoder:
    """`face_encoder` as a recipe or a stage configures it; `path` is the file of `config.facts.role`."""
    match config.network:
        case "dlib":
            network = load_dlib_resnet(path).to(device)
            # dlib's network takes 0..255
            return CroppedFaceEncoder(lambda x_B3HW: network(x_B3HW * 255), config)
        case "world":
            world = load_world_network(path, device)
            # the world's network takes -1..1
            return CroppedFaceEncoder(lambda x_B3HW: world(x_B3HW * 2 - 1), config)
        case "simswap_arcface":
            arcface = load_simswap_arcface(path, config=config.shape or SIMSWAP_ARCFACE)
            return CroppedFaceEncoder(arcface.to(device), config)
        case "ir_se50":
            return CroppedFaceEncoder(load_ir_se50(path, config=config.shape or IR_SE50).to(device), config)
