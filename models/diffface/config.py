"""Frozen, typed configuration of DiffFace's denoiser, with two presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.diffface import constants
from models.swap.config import FrozenConfig

TorsoPrecision = Literal["float32", "bfloat16", "float16"]
"""Of the convolutions between the two ends of the network; everything else stays float32."""


class DenoiserConfig(FrozenConfig):
    """Everything that decides the shape of the denoiser: an ADM U-Net with an identity MLP."""

    name: str = Field(description="Profile name, for logs and manifests.")
    image_size: int = Field(gt=0, description="Side of the square image, pixels.")
    model_channels: int = Field(gt=0, description="Channels of a level whose multiple is 1.")
    channel_mult: tuple[int, ...] = Field(
        min_length=1,
        description="Channels of each level over model_channels; the side halves between levels.",
    )
    num_res_blocks: int = Field(ge=1, description="Residual blocks of a level on the way down (one more up).")
    attention_resolutions: tuple[int, ...] = Field(
        description="Sides, in pixels, of the feature maps that attend to themselves."
    )
    num_head_channels: int = Field(gt=0, description="Width of one attention head.")
    identity_dim: int = Field(gt=0, description="Length of the L2-normalised face embedding.")
    learn_sigma: bool = Field(
        default=True, description="Whether three more channels interpolate the variance between its bounds."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="In front of the second convolution.")
    norm_groups: int = Field(
        default=constants.NORM_GROUPS, gt=0, description="Groups of every group normalisation."
    )
    torso_dtype: TorsoPrecision = Field(
        default="float32",
        description="Precision of the convolutions inside the input, middle and output blocks.",
    )

    @property
    def embedding_dim(self) -> int:
        """Width of the time embedding, and of both layers of the identity MLP."""
        return constants.EMBEDDING_MULTIPLE * self.model_channels

    @property
    def out_channels(self) -> int:
        """Three channels of epsilon and, with a learned variance, three of its interpolation."""
        return 6 if self.learn_sigma else 3

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the feature map at every level, in pixels, widest first."""
        return tuple(self.image_size // 2**level for level in range(len(self.channel_mult)))

    @model_validator(mode="after")
    def _sizes_agree(self) -> DenoiserConfig:
        halvings = len(self.channel_mult) - 1
        if self.image_size % 2**halvings:
            raise ValueError(f"image_size {self.image_size} cannot be halved {halvings} times")
        if min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult {self.channel_mult} must be 1 or more at every level")
        if self.model_channels % 2:
            raise ValueError(f"model_channels {self.model_channels} must be even: half cosines, half sines")
        if self.model_channels % self.norm_groups:
            raise ValueError(
                f"model_channels {self.model_channels} is no multiple of norm_groups {self.norm_groups}"
            )
        unknown = sorted(set(self.attention_resolutions) - set(self.sides))
        if unknown:
            raise ValueError(f"attention_resolutions {unknown} are no side of a level; sides: {self.sides}")
        attending = [
            multiple * self.model_channels
            for side, multiple in zip(self.sides, self.channel_mult, strict=True)
            if side in self.attention_resolutions
        ]
        attending.append(self.channel_mult[-1] * self.model_channels)  # the middle always attends
        uneven = sorted({width for width in attending if width % self.num_head_channels})
        if uneven:
            raise ValueError(
                f"attending widths {uneven} are no multiple of num_head_channels {self.num_head_channels}"
            )
        return self


def published() -> DenoiserConfig:
    """DiffFace's denoiser: ADM at 256 px, 554,388,998 parameters, ArcFace identity in 512 numbers."""
    return DenoiserConfig(
        name="diffface-256",
        image_size=constants.IMAGE_SIZE,
        model_channels=constants.MODEL_CHANNELS,
        channel_mult=constants.CHANNEL_MULT,
        num_res_blocks=constants.NUM_RES_BLOCKS,
        attention_resolutions=constants.ATTENTION_RESOLUTIONS,
        num_head_channels=constants.NUM_HEAD_CHANNELS,
        identity_dim=constants.IDENTITY_DIM,
    )


def tiny() -> DenoiserConfig:
    """Our own small denoiser for the procedural world: 32 px, identity in 128 numbers, 1,909,422 parameters.

    Most weights sit where the map is 8 px or smaller, because a CPU pays for every position.
    """
    return DenoiserConfig(
        name="tiny",
        image_size=32,
        model_channels=24,
        channel_mult=(1, 2, 3, 3),
        num_res_blocks=1,
        attention_resolutions=(16, 8),
        num_head_channels=24,
        identity_dim=128,
        norm_groups=8,
    )
