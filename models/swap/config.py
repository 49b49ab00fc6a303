"""Frozen, typed configuration of the swap model, its training and its sampling, with four presets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.swap import constants

InversionConditioning = Literal["noID_trgCond", "trgID_trgCond", "trgID_noCond", "noID_noCond"]


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
    base_dtype: Literal["float32", "bfloat16"] = Field(
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


class TrainingRecipe(FrozenConfig):
    """How a LoRA (teacher or student) or a whole base is trained. Defaults are the paper's teacher."""

    steps: int = Field(default=constants.TEACHER_STEPS, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=16, ge=1, description="Samples of one optimiser step in one process.")
    optimiser: Literal["adamw"] = Field(default="adamw", description="The optimiser.")
    learning_rate: float = Field(default=constants.LEARNING_RATE, gt=0, description="Peak learning rate.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate over time."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear rise to the peak.")
    weight_decay: float = Field(default=constants.WEIGHT_DECAY, ge=0, description="Decoupled weight decay.")
    gradient_clip: float = Field(
        default=constants.GRADIENT_CLIP, gt=0, description="Global gradient norm limit."
    )
    text_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(empty prompt).")
    condition_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(black condition).")
    identity_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(no identity).")
    branch_removal: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="P(a whole step without the condition branch); the paper never does.",
    )
    identity_loss_weight: float = Field(
        default=1.0, ge=0, description="Weight of the identity loss; 0 is off."
    )
    identity_loss_threshold: float = Field(
        default=constants.TEACHER_IDENTITY_THRESHOLD, ge=0, le=1, description="Identity loss where t <= this."
    )
    trainable: Literal["lora", "everything"] = Field(default="lora", description="What the optimiser moves.")
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    checkpoint_interval: int = Field(default=250, ge=1, description="Steps between resumable checkpoints.")
    seed: int = Field(default=0, ge=0, description="Decides adapters' start, data order, noise and dropout.")


class SamplingConfig(FrozenConfig):
    """How a swap is sampled, and whether the target is inverted first."""

    steps: int = Field(
        default=constants.INFERENCE_STEPS, ge=1, description="Euler steps from noise to image."
    )
    guidance_scale: float = Field(
        default=1.0, ge=0, description="Distilled guidance scalar fed to the model."
    )
    image_guidance_scale: float = Field(
        default=1.0, ge=0, description="1 is off; contrast with a black condition."
    )
    id_guidance_scale: float = Field(default=1.0, ge=0, description="1 is off; contrast with no identity.")
    shift: bool = Field(default=True, description="FLUX's resolution-dependent shift of the noise levels.")
    inversion: InversionConditioning | None = Field(
        default="noID_trgCond",
        description="What the model sees while the target is inverted; None starts at noise.",
    )
    inverse_steps: int | None = Field(
        default=None, ge=1, description="Steps inverted, and then sampled; None is all, fewer stop part-way."
    )
    second_order: bool = Field(
        default=False, description="Midpoint steps in the inversion instead of Euler's."
    )

    @model_validator(mode="after")
    def _inverse_steps_fit(self) -> SamplingConfig:
        if self.inverse_steps is not None and self.inverse_steps > self.steps:
            raise ValueError(f"inverse_steps {self.inverse_steps} exceeds steps {self.steps}")
        return self


def tiny() -> SwapModelConfig:
    """Our own small FLUX: 32 px, 16 tokens of 96 channels, 1 + 3 blocks of width 128, dlib identity."""
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
