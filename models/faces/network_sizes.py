"""Shapes of the published face networks, as frozen settings.

They stand apart from the networks so that a stage can name its network's shape without loading torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.faces.constants import CLASS_NAMES


class ResNetConfig(BaseModel):
    """Shape of a residual network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Literal["basic", "bottleneck"] = Field(description="Two 3x3 convolutions, or 1x1, 3x3, 1x1.")
    depths: tuple[int, int, int, int] = Field(description="Blocks of each stage.")
    width: int = Field(default=64, ge=2, description="Inner channels of the first stage; doubles per stage.")
    strides: tuple[int, int, int, int] = Field(default=(1, 2, 2, 2), description="Stride of each stage.")
    dilations: tuple[int, int, int, int] = Field(
        default=(1, 1, 1, 1),
        description="Dilation of each stage's 3x3 convolutions; the first block of a stage has half of it.",
    )
    deep_stem: bool = Field(default=False, description="Three 3x3 convolutions as the stem (variant C).")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four feature maps."""
        expansion = 4 if self.block == "bottleneck" else 1
        first = self.width * expansion
        return first, first * 2, first * 4, first * 8


RESNET18 = ResNetConfig(block="basic", depths=(2, 2, 2, 2))
RESNET50 = ResNetConfig(block="bottleneck", depths=(3, 4, 6, 3))
RESNET101_C_DILATED = ResNetConfig(
    block="bottleneck",
    depths=(3, 4, 23, 3),
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
    deep_stem=True,
)
"""ResNet-101 variant C with an output stride of 8 ("D8")."""


class BiSeNetConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(default=len(CLASS_NAMES), ge=2, description="Classes it tells apart.")
    backbone: ResNetConfig = Field(
        default=RESNET18, description="Features; every other width follows its own."
    )


class DeepLabConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(default=2, ge=2, description="Classes it tells apart.")
    backbone: ResNetConfig = Field(default=RESNET101_C_DILATED, description="Features.")
    channels: int = Field(default=512, description="Channels of the decoder.")
    detail_channels: int = Field(default=48, description="Channels kept of the first stage's features.")
    dilations: tuple[int, ...] = Field(
        default=(12, 24, 36), description="Dilations of the pyramid's 3x3 convolutions."
    )
