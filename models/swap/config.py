"""Frozen, typed configuration of the swap model, with four presets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.swap import constants

Precision = Literal["float32", "bfloat16"]
"""Of frozen weights; adapters are always float32."""


class FrozenConfig(BaseModel):
    """Base of every configuration here: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformerConfig(FrozenConfig):
    """Sizes of the FLUX transformer, named as `diffusers.FluxTransformer2DModel` names them."""

    in_channels: int = Field(gt=0, description="Channels of one packed latent token.")
    num_layers: int = Field(ge=1, description="Double-stream blocks.")
    num_single_layers: int = Field(ge=1, description="Single-stream blocks.")
    attention_head_dim: int = Field(gt=0, description="Width of one attention head.")
    num_attention_heads: int = Field(gt=0, description="Attention heads.")
    joint_attention_dim: int = Field(gt=0, description="Width of one text token.")
    pooled_projection_dim: int = Field(gt=0, description="Width of the pooled text vector.")
    guidance_embeds: bool = Field(default=True, description="Whether the model takes the guidance scalar.")
    axes_dims_rope: tuple[int, int, int] = Field(description="Rotary widths of the three position axes.")
    text_tokens: int = Field(gt=0, description="Text tokens of the constant prompt.")

    @property
    def inner_dim(self) -> int:
        """Width of the residual stream."""
        return self.attention_head_dim * self.num_attention_heads

    @model_validator(mode="after")
    def _rotary_fills_the_head(self) -> TransformerConfig:
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope {self.axes_dims_rope} must sum to "
                f"attention_head_dim {self.attention_head_dim}"
            )
        return self


class IdentityConfig(FrozenConfig):
    """The identity path: an encoder from an embedding to tokens, and cross-attention onto image tokens."""

    encoder: Literal["mlp", "tokens"] = Field(
        default="mlp",
        description="'mlp' maps an embedding to tokens; 'tokens' takes ready ones (PuLID's IDFormer output).",
    )
    embedding_dim: int = Field(
        gt=0, description="Length of the face embedding; tokens x token_dim for 'tokens'."
    )
    tokens: int = Field(default=constants.PULID_TOKENS, gt=0, description="Identity tokens.")
    token_dim: int = Field(default=constants.PULID_TOKEN_DIM, gt=0, description="Width of an identity token.")
    heads: int = Field(default=constants.PULID_HEADS, gt=0, description="Heads of the identity attention.")
    head_dim: int = Field(default=constants.PULID_HEAD_DIM, gt=0, description="Width of one of these heads.")
    hidden_dim: int = Field(default=512, gt=0, description="Hidden width of the 'mlp' encoder.")
    double_interval: int = Field(
        default=constants.PULID_DOUBLE_INTERVAL, gt=0, description="Attend after double blocks 0, n, 2n, ..."
    )
    single_interval: int = Field(
        default=constants.PULID_SINGLE_INTERVAL, gt=0, description="Attend after single blocks 0, n, 2n, ..."
    )

    @model_validator(mode="after")
    def _tokens_fill_the_embedding(self) -> IdentityConfig:
        if self.encoder == "tokens" and self.embedding_dim != self.tokens * self.token_dim:
            raise ValueError("with encoder 'tokens', embedding_dim must equal tokens x token_dim")
        return self


class ConditionBranchConfig(FrozenConfig):
    """Where the condition branch sits and what it may see (OminiControl)."""

    position_delta: tuple[float, float] = Field(
        default=(0.0, 0.0), description="Rows and columns the condition's grid is moved by, in image tokens."
    )
    position_scale: float = Field(default=1.0, gt=0, description="Image tokens one condition token spans.")
    independent_condition: bool = Field(
        default=False, description="If true the condition attends to itself alone; the paper says false."
    )


class LoraConfig(FrozenConfig):
    """Low-rank adapters of the condition branch."""

    rank: int = Field(default=constants.LORA_RANK, gt=0, description="Rank of every adapter.")
    alpha: int = Field(default=constants.LORA_RANK, gt=0, description="Scale is alpha / rank.")
    targets: str = Field(default=constants.LORA_TARGETS, description="Regular expression over module names.")


class CodecConfig(FrozenConfig):
    """The map between images and packed latent tokens."""

    kind: Literal["patch", "autoencoder_kl"] = Field(description="Linear patch codec, or FLUX's autoencoder.")
    patch_size: int = Field(gt=0, description="Image pixels one packed token spans on a side.")
    channels: int = Field(gt=0, description="Channels of a packed token.")
    whitening_power: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="Patch codec: components are divided by eigenvalue to this power.",
    )


class SwapModelConfig(FrozenConfig):
    """Everything that decides the shape of a swap model."""

    name: str = Field(description="Profile name, for logs and manifests.")
    image_size: int = Field(gt=0, description="Side of the square image, pixels.")
    base_dtype: Precision = Field(
        default="float32", description="Precision of the frozen weights; adapters are always float32."
    )
    transformer: TransformerConfig
    identity: IdentityConfig
    condition: ConditionBranchConfig = ConditionBranchConfig()
    lora: LoraConfig = LoraConfig()
    codec: CodecConfig

    @property
    def image_tokens(self) -> int:
        """Packed latent tokens of one image."""
        return (self.image_size // self.codec.patch_size) ** 2

    @model_validator(mode="after")
    def _sizes_agree(self) -> SwapModelConfig:
        if self.image_size % self.codec.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.codec.patch_size}"
            )
        if self.codec.channels != self.transformer.in_channels:
            raise ValueError("codec.channels and transformer.in_channels must be equal")
        return self


def tiny() -> SwapModelConfig:
    """Our own small FLUX: 32 px, 16 tokens of 96 channels, 1 + 3 blocks of width 128, identity in 128."""
    return SwapModelConfig(
        name="tiny",
        image_size=32,
        transformer=TransformerConfig(
            in_channels=96,
            num_layers=1,
            num_single_layers=3,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 14, 14),
            text_tokens=4,
        ),
        identity=IdentityConfig(
            embedding_dim=128,
            tokens=4,
            token_dim=128,
            heads=4,
            head_dim=32,
            hidden_dim=256,
            double_interval=1,
            single_interval=1,
        ),
        lora=LoraConfig(rank=16, alpha=16),
        codec=CodecConfig(kind="patch", patch_size=8, channels=96),
    )


def smoke() -> SwapModelConfig:
    """The smallest model that walks every line: 32 px, 1 + 1 blocks of width 64."""
    return SwapModelConfig(
        name="smoke",
        image_size=32,
        transformer=TransformerConfig(
            in_channels=48,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 6, 6),
            text_tokens=2,
        ),
        identity=IdentityConfig(
            embedding_dim=128,
            tokens=2,
            token_dim=32,
            heads=2,
            head_dim=16,
            hidden_dim=64,
            double_interval=1,
            single_interval=1,
        ),
        lora=LoraConfig(rank=4, alpha=4),
        codec=CodecConfig(kind="patch", patch_size=8, channels=48),
    )


def flux_krea() -> SwapModelConfig:
    """FLUX.1-Krea-dev with PuLID-FLUX 0.9.1 at 512 px, as in the paper."""
    return SwapModelConfig(
        name="flux-krea",
        image_size=512,
        base_dtype="bfloat16",
        transformer=TransformerConfig(
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            axes_dims_rope=(16, 56, 56),
            text_tokens=512,
        ),
        identity=IdentityConfig(
            encoder="tokens", embedding_dim=constants.PULID_TOKENS * constants.PULID_TOKEN_DIM
        ),
        codec=CodecConfig(kind="autoencoder_kl", patch_size=16, channels=64),
    )


def flux_schnell() -> SwapModelConfig:
    """FLUX.1-schnell at 512 px: FLUX's sizes without the guidance scalar, 256 text tokens, SFace identity."""
    krea = flux_krea()
    transformer = krea.transformer.model_copy(update={"guidance_embeds": False, "text_tokens": 256})
    identity = IdentityConfig(embedding_dim=128, hidden_dim=2048)
    return krea.model_copy(update={"name": "flux-schnell", "transformer": transformer, "identity": identity})
