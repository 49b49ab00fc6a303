"""Sizes of CLIP's tower and of the aesthetic head, as frozen settings.

They stand apart from the networks so that a stage can name their sizes without loading torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ClipAestheticsConfig(BaseModel):
    """Sizes of tower and head; the defaults are CLIP ViT-L/14's and the published head's."""

    model_config = ConfigDict(frozen=True)

    image_size: int = Field(default=224, ge=1, description="Side of the square input in pixels.")
    patch_size: int = Field(default=14, ge=1, description="Side of a patch in pixels.")
    width: int = Field(default=1024, ge=1, description="Channels of a token.")
    layers: int = Field(default=24, ge=1, description="Number of blocks.")
    heads: int = Field(default=16, ge=1, description="Attention heads.")
    feed_forward_dim: int = Field(default=4096, ge=1, description="Channels inside a block's feed-forward.")
    embedding_dim: int = Field(default=768, ge=1, description="Size of the projected image embedding.")
    head_dims: tuple[int, int, int, int] = Field(
        default=(1024, 128, 64, 16), description="Channels between the five layers of the head."
    )
