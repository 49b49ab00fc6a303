"""How a LoRA or a whole base is trained: every number of a run, frozen and typed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.swap import constants
from models.swap.config import FrozenConfig


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
