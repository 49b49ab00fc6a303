"""MobileNetV3-Large as a feature extractor, with the tensor names of 3DDFA-V3's small network.

Howard et al., "Searching for MobileNetV3" (2019), table 1, without the classifier.
"""

from __future__ import annotations

import torch.nn.functional as functional
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

SQUEEZE_RATIO = 4
"""Channels over channels inside squeeze-and-excitation."""


class InvertedResidualPlan(BaseModel):
    """One inverted residual block."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: int = Field(description="Side of the depthwise convolution, 3 or 5.")
    expanded: int = Field(description="Channels inside; equal to the channels that come in: no expansion.")
    channels_out: int = Field(description="Channels that go out.")
    squeezes: bool = Field(description="Whether there is squeeze-and-excitation.")
    hard_swish: bool = Field(description="Hard swish instead of the rectifier.")
    stride: int = Field(description="1 or 2.")


class MobileNetConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: int = Field(description="Channels after the first convolution.")
    blocks: tuple[InvertedResidualPlan, ...] = Field(min_length=1, description="From the image on.")

    @property
    def channels(self) -> int:
        """Channels of the last 1x1 convolution: as many as the last block has inside."""
        return self.blocks[-1].expanded


def _plan(kernel: int, expanded: int, channels_out: int, kind: str, stride: int) -> InvertedResidualPlan:
    """`kind` as in the paper's table: SE for squeeze-and-excitation, RE or HS for the non-linearity."""
    return InvertedResidualPlan(
        kernel=kernel,
        expanded=expanded,
        channels_out=channels_out,
        squeezes="SE" in kind,
        hard_swish="HS" in kind,
        stride=stride,
    )


MOBILENET_V3_LARGE = MobileNetConfig(
    stem=16,
    blocks=(
        _plan(3, 16, 16, "RE", 1),
        _plan(3, 64, 24, "RE", 2),
        _plan(3, 72, 24, "RE", 1),
        _plan(5, 72, 40, "SE RE", 2),
        _plan(5, 120, 40, "SE RE", 1),
        _plan(5, 120, 40, "SE RE", 1),
        _plan(3, 240, 80, "HS", 2),
        _plan(3, 200, 80, "HS", 1),
        _plan(3, 184, 80, "HS", 1),
        _plan(3, 184, 80, "HS", 1),
        _plan(3, 480, 112, "SE HS", 1),
        _plan(3, 672, 112, "SE HS", 1),
        _plan(5, 672, 160, "SE HS", 2),
        _plan(5, 960, 160, "SE HS", 1),
        _plan(5, 960, 160, "SE HS", 1),
    ),
)


def squeezed_channels(channels: int) -> int:
    """A quarter of the channels, rounded to a multiple of 8 that is not more than a tenth smaller."""
    quarter = channels // SQUEEZE_RATIO
    rounded = max(8, (quarter + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * quarter else rounded


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole map looks like (Hu et al., 2017), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = squeezed_channels(channels)
        self.fc = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Hardsigmoid()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x_BCHW * self.fc(x_BCHW.mean(dim=(2, 3)))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection; a shortcut where the shape stays.

    The places in `conv` are those of the published names; a place without parameters holds an identity.
    """

    def __init__(self, channels_in: int, plan: InvertedResidualPlan) -> None:
        super().__init__()
        inside = plan.expanded
        expands = inside != channels_in
        activation = nn.Hardswish if plan.hard_swish else nn.ReLU
        squeeze = SqueezeExcitation(inside) if plan.squeezes else nn.Identity()
        layers: list[nn.Module] = []
        if expands:
            layers += [
                nn.Conv2d(channels_in, inside, 1, bias=False),
                nn.BatchNorm2d(inside),
                activation(),
            ]
        layers += [
            nn.Conv2d(inside, inside, plan.kernel, plan.stride, plan.kernel // 2, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
        ]
        # Only the block without expansion applies its non-linearity before the squeeze.
        layers += [squeeze, activation()] if expands else [activation(), squeeze]
        layers += [
            nn.Conv2d(inside, plan.channels_out, 1, bias=False),
            nn.BatchNorm2d(plan.channels_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.keeps_shape = plan.stride == 1 and channels_in == plan.channels_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        x = self.conv(x_BCHW)
        return x + x_BCHW if self.keeps_shape else x


class MobileNetV3(nn.Module):
    """An image to one map at a thirty-second of the resolution.

    Tensor names: `features.0.{0,1}` (stem), `features.{n}.conv.{place}`, `conv.{0,1}` (last convolution).
    """

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(3, config.stem, 3, 2, 1, bias=False), nn.BatchNorm2d(config.stem), nn.Hardswish()
            )
        ]
        channels = config.stem
        for plan in config.blocks:
            layers.append(InvertedResidual(channels, plan))
            channels = plan.channels_out
        self.features = nn.Sequential(*layers)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, config.channels, 1, bias=False), nn.BatchNorm2d(config.channels)
        )

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, `config.channels`, H / 32, W / 32)."""
        return functional.hardswish(self.conv(self.features(x_B3HW)))
