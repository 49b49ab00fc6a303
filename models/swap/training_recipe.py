"""How a LoRA or a whole base is trained: every setting that decides a run, frozen and typed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.swap import constants
from models.swap.config import FrozenConfig

PRODIGY_SMALLEST_FACTOR = 0.1
"""Below this a Prodigy learning rate was certainly meant for AdamW."""


class TrainingRecipe(FrozenConfig):
    """How a LoRA (teacher or student) or a whole base is trained. Defaults are the paper's teacher.

    One recipe gives one run, whatever it is run on: the number of processes is no part of it. A step's
    `batch_size` rows are shared among them, and each process works through its share `micro_batch_size` rows
    at a time. The paper's 16 is 1 row x 4 accumulated x 4 GPUs.
    """

    steps: int = Field(default=constants.TEACHER_STEPS, ge=1, description="Optimiser steps.")
    batch_size: int = Field(
        default=constants.BATCH_SIZE, ge=1, description="Rows of one optimiser step, over all processes."
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows that go through the model at once; gradients of the others are accumulated. "
        "None takes a process's whole share. Moves nothing but memory, time and rounding.",
    )

    optimiser: Literal["adamw", "prodigy", "sgd", "muon"] = Field(
        default="adamw",
        description="The optimiser. muon moves the matrices of hidden layers, and adamw the rest; it is for "
        "training everything, for its updates of an adapter would be of full rank.",
    )
    learning_rate: float = Field(
        default=constants.LEARNING_RATE,
        gt=0,
        description="Peak learning rate; for prodigy a factor on the rate it finds, which is to be 1.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate over time."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear rise to the peak.")
    weight_decay: float = Field(default=constants.WEIGHT_DECAY, ge=0, description="Decoupled weight decay.")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="adamw, prodigy: how long both moments remember."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="adamw, prodigy: added to the denominator.")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd: momentum.")
    use_bias_correction: bool = Field(default=True, description="prodigy: Adam's bias correction.")
    safeguard_warmup: bool = Field(
        default=True, description="prodigy: keeps the warm-up out of its estimate of the rate."
    )
    gradient_clip: float = Field(
        default=constants.GRADIENT_CLIP, gt=0, description="Limit of the whole step's gradient norm."
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Moving average of the weights, which validation and the result then take; None is off.",
    )

    text_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(empty prompt).")
    condition_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(black condition).")
    identity_dropout: float = Field(default=constants.DROPOUT, ge=0, le=1, description="P(no identity).")
    branch_removal: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="P(a whole step without the condition branch); for training everything, never the paper.",
    )
    proxy_reconstruction: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="P(the condition is the ground truth itself). For students; the original's option is "
        "0.5, and off.",
    )
    timestep_shift: float = Field(
        default=1.0,
        gt=0,
        description="Drawn noise levels t are moved to s t / (1 + (s - 1) t); 1 is the paper. More "
        "teaches what the noise hides, such as whose face it is.",
    )
    occlusion: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="P(one occluder pasted on ground truth and condition alike); not in the original's code.",
    )
    source_may_be_target: bool = Field(
        default=False,
        description="Whether the identity may come from the target photograph itself, as in the original.",
    )

    identity_loss_weight: float = Field(
        default=1.0, ge=0, description="Weight of the identity loss; 0 is off."
    )
    identity_loss_threshold: float = Field(
        default=constants.TEACHER_IDENTITY_THRESHOLD, ge=0, le=1, description="Identity loss where t <= this."
    )
    identity_loss_start: int = Field(
        default=constants.FLOW_ONLY_STEPS, ge=0, description="Steps before the identity loss sets in."
    )
    identity_loss_on_dropped: bool = Field(
        default=False,
        description="Whether rows whose identity was dropped keep the loss, as in the original.",
    )
    lpips_weight: float = Field(default=1.0, ge=0, description="Weight of LPIPS; 0 is off.")
    lpips_threshold: float = Field(
        default=constants.TEACHER_IDENTITY_THRESHOLD, ge=0, le=1, description="LPIPS where t <= this."
    )
    lpips_start: int = Field(
        default=constants.FLOW_ONLY_STEPS,
        ge=0,
        description="Steps before LPIPS sets in; the original has it only together with the identity loss.",
    )
    gated_loss_normalisation: Literal["all_rows", "gated_rows"] = Field(
        default="all_rows",
        description="By what the sums of both gated losses are divided: all rows of the step, or those "
        "behind the gate. The original divides by the gated rows of one micro batch, which for its "
        "micro batch of one row is the first.",
    )

    trainable: Literal["lora", "everything"] = Field(default="lora", description="What the optimiser moves.")
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    checkpoint_interval: int = Field(default=250, ge=1, description="Steps between resumable states.")
    validation_interval: int | None = Field(
        default=250, ge=1, description="Steps between validation grids; None makes none."
    )
    validation_images: int = Field(
        default=constants.VALIDATION_IMAGES, ge=1, description="Held-out pairs, never targets of training."
    )
    validation_with_other_identity: bool = Field(
        default=True,
        description="Whether validation takes another person's identity (the paper's teacher) or the "
        "target person's own, from another photograph (its student).",
    )
    seed: int = Field(default=0, ge=0, description="Decides adapters' start, data order, noise and dropout.")

    @property
    def validates(self) -> bool:
        """Whether the run gets to a validation; if not, nothing is held out for it."""
        return self.validation_interval is not None and self.validation_interval <= self.steps

    @property
    def needs_identity_network(self) -> bool:
        """Whether the run gets to an identity loss."""
        return self.identity_loss_weight > 0 and self.identity_loss_start < self.steps

    @property
    def needs_perceptual_network(self) -> bool:
        """Whether the run gets to an LPIPS loss."""
        return self.lpips_weight > 0 and self.lpips_start < self.steps

    @model_validator(mode="after")
    def _fits(self) -> TrainingRecipe:
        if self.optimiser == "prodigy" and self.learning_rate < PRODIGY_SMALLEST_FACTOR:
            raise ValueError(
                f"learning_rate {self.learning_rate} is a factor on the rate prodigy finds; set it to 1"
            )
        if self.optimiser == "muon" and self.trainable == "lora":
            raise ValueError("optimiser muon is for trainable='everything'; adapters take adamw or prodigy")
        if self.branch_removal and self.trainable == "lora":
            raise ValueError(
                "branch_removal leaves a LoRA nothing to learn; it is for trainable='everything'"
            )
        return self
