"""The gaze expert's network: a stacked hourglass finds landmarks of one eye, and from them where it looks.

Newell et al., "Stacked Hourglass Networks for Human Pose Estimation" (2016), with heads for the eye's 34
landmarks and its gaze, as in the public estimator trained on UnityEyes that DiffFace uses (2,567,432
parameters at `published()`). Tensor names are those of that estimator's public layout. The file that DiffFace
ships (`GazeEstimator.pt`, whose `model_state_dict` has to be converted to safetensors) was never opened here;
reading one is strict, and names whatever differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from models.swap.config import FrozenConfig
from models.weight_files import KeyAdapter, load_weights

SOFT_ARGMAX_SHARPNESS = 100.0
"""Factor of the heat maps before the softmax of the soft-argmax (public estimator)."""


class GazeNetworkConfig(FrozenConfig):
    """Sizes of the network; the defaults are the published ones."""

    nstack: int = Field(default=3, ge=1, description="Hourglasses, one after another.")
    nfeatures: int = Field(default=32, ge=2, description="Channels inside the hourglasses.")
    nlandmarks: int = Field(default=34, ge=1, description="Landmarks, one heat map each.")
    height: int = Field(default=96, ge=8, description="Height of the eye's picture, px.")
    width: int = Field(default=160, ge=8, description="Width of the eye's picture, px.")
    levels: int = Field(default=4, ge=1, description="Halvings inside an hourglass.")
    stem_width: int = Field(default=64, ge=2, description="Channels behind the first convolution of a stem.")
    wide_width: int = Field(default=128, ge=2, description="Channels in the middle of a stem.")
    gaze_hidden: int = Field(default=256, ge=1, description="Hidden numbers of the gaze head.")

    @model_validator(mode="after")
    def _halves(self) -> GazeNetworkConfig:
        if self.height % 8 or self.width % 8:
            raise ValueError(f"height {self.height} and width {self.width} must be multiples of 8")
        if min(self.height, self.width) // 2 < 2**self.levels:
            raise ValueError(f"{self.levels} levels need heat maps of at least {2**self.levels} px a side")
        if odd := [value for value in (self.nfeatures, self.stem_width, self.wide_width) if value % 2]:
            raise ValueError(f"widths must be even, a residual unit halves them: {odd}")
        return self


def published() -> GazeNetworkConfig:
    """The published sizes: 3 hourglasses of 32 channels, 34 landmarks, eyes of 96 x 160 px."""
    return GazeNetworkConfig()


class Convolution(nn.Module):
    """A convolution that keeps the size, with optional normalisation and rectifier."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, activated: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=(kernel - 1) // 2)
        self.bn = nn.BatchNorm2d(channels_out) if activated else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        x = self.conv(x_BCHW)
        return x if self.bn is None else functional.relu(self.bn(x))


class Residual(nn.Module):
    """Pre-activated bottleneck of 1 x 1, 3 x 3 and 1 x 1 convolutions at half the width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        inside = channels_out // 2
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = Convolution(channels_in, inside, 1)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv2 = Convolution(inside, inside, 3)
        self.bn3 = nn.BatchNorm2d(inside)
        self.conv3 = Convolution(inside, channels_out, 1)
        # present in the published files of equal widths too, where nothing passes through it
        self.skip_layer = Convolution(channels_in, channels_out, 1)
        self._widens = channels_in != channels_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.conv1(functional.relu(self.bn1(x_BCHW)))
        x = self.conv2(functional.relu(self.bn2(x)))
        x = self.conv3(functional.relu(self.bn3(x)))
        return x + (self.skip_layer(x_BCHW) if self._widens else x_BCHW)


class Hourglass(nn.Module):
    """Features halved `levels` times and brought up again, with a residual unit beside every level."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.up1 = Residual(channels, channels)
        self.low1 = Residual(channels, channels)
        self.low2 = Hourglass(levels - 1, channels) if levels > 1 else Residual(channels, channels)
        self.low3 = Residual(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; odd sides are rounded down when they are halved."""
        low = self.low3(self.low2(self.low1(functional.max_pool2d(x_BCHW, 2))))
        return self.up1(x_BCHW) + functional.interpolate(low, x_BCHW.shape[2:], mode="nearest")


class Merge(nn.Module):
    """A 1 x 1 convolution that brings a stage's output back to the features of the next."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = Convolution(channels_in, channels_out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.conv(x_BCHW)


def _stem(channels_in: int, config: GazeNetworkConfig, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Convolution(channels_in, config.stem_width, 7, stride, activated=True),
        Residual(config.stem_width, config.wide_width),
        nn.MaxPool2d(2),
        Residual(config.wide_width, config.wide_width),
        Residual(config.wide_width, config.nfeatures),
    )


@dataclass(frozen=True)
class GazeOutput:
    """What the network says of each eye.

    Attributes:
        heatmaps_BSLHW: (B, nstack, nlandmarks, height / 2, width / 2), of every hourglass.
        landmarks_BL2: (B, nlandmarks, 2) row and column in pixels of the last heat maps.
        gaze_B2: (B, 2) pitch and yaw, radians.
    """

    heatmaps_BSLHW: Tensor
    landmarks_BL2: Tensor
    gaze_B2: Tensor


class GazeNetwork(nn.Module):
    """Grey pictures of one eye to heat maps, landmarks and gaze; differentiable throughout."""

    def __init__(self, config: GazeNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or published()
        channels, landmarks = config.nfeatures, config.nlandmarks
        between = range(config.nstack - 1)
        self.pre = _stem(1, config, stride=1)
        self.pre2 = _stem(channels, config, stride=2)
        self.hgs = nn.ModuleList(
            nn.Sequential(Hourglass(config.levels, channels)) for _ in range(config.nstack)
        )
        self.features = nn.ModuleList(
            nn.Sequential(Residual(channels, channels), Convolution(channels, channels, 1, activated=True))
            for _ in range(config.nstack)
        )
        self.outs = nn.ModuleList(Convolution(channels, landmarks, 1) for _ in range(config.nstack))
        self.merge_features = nn.ModuleList(Merge(channels, channels) for _ in between)
        self.merge_preds = nn.ModuleList(Merge(landmarks, channels) for _ in between)
        seen = channels * (config.height // 8) * (config.width // 8) + 2 * landmarks
        self.gaze_fc1 = nn.Linear(seen, config.gaze_hidden)
        self.gaze_fc2 = nn.Linear(config.gaze_hidden, 2)

    def forward(self, eyes_B1HW: Tensor) -> GazeOutput:
        """Read eyes.

        Args:
            eyes_B1HW: (B, 1, height, width) grey in 0..1.

        Raises:
            ValueError: another shape.
        """
        expected = (1, self.config.height, self.config.width)
        if tuple(eyes_B1HW.shape[1:]) != expected:
            raise ValueError(f"expected eyes (B, {expected}), got {tuple(eyes_B1HW.shape)}")
        x = self.pre(eyes_B1HW)
        overall = self.pre2(x).flatten(1)
        heatmaps: list[Tensor] = []
        for stage, hourglass in enumerate(self.hgs):
            feature = self.features[stage](hourglass(x))
            heatmaps.append(self.outs[stage](feature))
            if stage + 1 < len(self.hgs):
                x = x + self.merge_preds[stage](heatmaps[-1]) + self.merge_features[stage](feature)
        landmarks = soft_argmax(heatmaps[-1])
        hidden = functional.relu(self.gaze_fc1(torch.cat([overall, landmarks.flatten(1)], dim=1)))
        return GazeOutput(torch.stack(heatmaps, dim=1), landmarks, self.gaze_fc2(hidden))

    def gaze(self, eyes_B1HW: Tensor) -> Tensor:
        """Pitch and yaw of each eye (B, 2), radians; arguments as of the call."""
        return cast(GazeOutput, self(eyes_B1HW)).gaze_B2


def soft_argmax(heatmaps_BLHW: Tensor) -> Tensor:
    """Mean place of each heat map's peak, (B, L, 2) as row and column in its pixels; differentiable."""
    height, width = heatmaps_BLHW.shape[2:]
    share = torch.softmax(heatmaps_BLHW.flatten(2) * SOFT_ARGMAX_SHARPNESS, dim=2).unflatten(
        2, (height, width)
    )
    rows = torch.arange(height, device=share.device, dtype=share.dtype)
    columns = torch.arange(width, device=share.device, dtype=share.dtype)
    return torch.stack([(share.sum(dim=3) * rows).sum(dim=2), (share.sum(dim=2) * columns).sum(dim=2)], dim=2)


def load_gaze_network(
    path: str | Path, adapter: KeyAdapter | None = None, config: GazeNetworkConfig | None = None
) -> GazeNetwork:
    """Read a network from a safetensors file of its state dict, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of `GazeEstimator.pt`'s `model_state_dict`.
        adapter: renames the file's tensors, for other layouts.
        config: shape of the network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = GazeNetwork(config)
    load_weights(network, path, adapter)
    return network
