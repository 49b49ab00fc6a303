"""Shapes of the two squeeze-and-excitation ArcFace networks, as frozen settings.

They stand apart from the networks so that their sizes can be named without loading torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

ARCFACE_INPUT = 112
"""Side in pixels of the picture both networks take."""

ARCFACE_EMBEDDING = 512
"""Numbers in an embedding of either network."""

SQUEEZE = 16
"""Channels over the inner width of a squeeze-and-excitation unit."""


class IrSeConfig(BaseModel):
    """Blocks and channels of an IR-SE network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depths: tuple[int, int, int, int] = Field(description="Blocks of each stage.")
    channels: tuple[int, int, int, int] = Field(
        default=(64, 128, 256, 512), description="Channels of each stage; each at least 16."
    )
    stem_channels: int = Field(default=64, ge=1, description="Channels behind the first convolution.")
    embedding_dim: int = Field(default=ARCFACE_EMBEDDING, ge=1, description="Size of the embedding.")


SIMSWAP_ARCFACE = IrSeConfig(depths=(3, 4, 23, 3))
"""The network of SimSwap's `arcface_checkpoint.tar` and DiffFace's `Arcface.tar`, 52,193,215 parameters."""

IR_SE50 = IrSeConfig(depths=(3, 4, 14, 3))
"""The network of `model_ir_se50.pth`."""
