"""Sizes of EVA-CLIP's image tower and of PuLID's ID encoder, as frozen settings.

They stand apart from the networks so that a stage can name its networks' sizes without loading torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EvaClipConfig(BaseModel):
    """Sizes of the tower; the defaults are EVA02-CLIP-L-14-336's."""

    model_config = ConfigDict(frozen=True)

    image_size: int = Field(default=336, ge=1, description="Side of the square input in pixels.")
    patch_size: int = Field(default=14, ge=1, description="Side of a patch in pixels.")
    width: int = Field(default=1024, ge=1, description="Channels of a token.")
    layers: int = Field(default=24, ge=1, description="Number of blocks.")
    head_dim: int = Field(default=64, ge=4, multiple_of=4, description="Channels of one attention head.")
    mlp_ratio: float = Field(
        default=2.6667, gt=0, description="Feed-forward width over `width`, rounded down."
    )
    embedding_dim: int = Field(default=768, ge=1, description="Size of the image embedding.")
    rotary_grid: int = Field(
        default=16,
        ge=1,
        description="Patches per side at which the positions were trained; other grids are squeezed into it.",
    )
    hidden_after: tuple[int, ...] = Field(
        default=(4, 8, 12, 16, 20),
        description="Numbers of blocks after which the tokens are handed out (PuLID, feature extraction).",
    )

    @model_validator(mode="after")
    def _fits(self) -> EvaClipConfig:
        if self.image_size % self.patch_size:
            raise ValueError(f"patches of {self.patch_size} px do not tile {self.image_size} px")
        if self.width % self.head_dim:
            raise ValueError(f"heads of {self.head_dim} channels do not fill a width of {self.width}")
        if any(not 0 < count < self.layers for count in self.hidden_after):
            raise ValueError(
                f"hidden states after {self.hidden_after} blocks, of {self.layers} blocks in all"
            )
        return self

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of an image: the class token and the patches."""
        return self.grid**2 + 1


class IdFormerConfig(BaseModel):
    """Sizes of the encoder; the defaults are PuLID-FLUX 0.9.1's."""

    model_config = ConfigDict(frozen=True)

    dim: int = Field(default=1024, ge=1, description="Channels of the encoder's own tokens.")
    depth: int = Field(default=10, ge=1, description="Number of layers, spread evenly over the scales.")
    heads: int = Field(default=16, ge=1, description="Attention heads.")
    head_dim: int = Field(default=64, ge=1, description="Channels of one head.")
    queries: int = Field(default=32, ge=1, description="Learned tokens; as many leave the encoder.")
    id_tokens: int = Field(default=5, ge=1, description="Tokens the identity vector becomes.")
    id_dim: int = Field(default=1280, ge=1, description="Identity vector: ArcFace 512 and EVA-CLIP 768.")
    feature_dim: int = Field(
        default=1024, ge=1, description="Channels of the hidden states, and of both maps."
    )
    scales: int = Field(default=5, ge=1, description="Number of hidden states.")
    feed_forward_ratio: int = Field(default=4, ge=1, description="Feed-forward width over `dim`.")
    output_dim: int = Field(default=2048, ge=1, description="Channels of the identity tokens.")

    @model_validator(mode="after")
    def _fits(self) -> IdFormerConfig:
        if self.depth % self.scales:
            raise ValueError(f"{self.depth} layers cannot be spread evenly over {self.scales} scales")
        return self
