"""How DiffFace's denoiser is trained: every setting that decides a run, frozen and typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from models.swap.config import FrozenConfig
from models.swap.training_recipe import TrainingRecipe


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three terms of the loss."""

    noise: float
    variance_bound: float
    identity: float


WEIGHTINGS: dict[str, LossWeights] = {
    "code": LossWeights(noise=1.0, variance_bound=1.0, identity=0.01),
    "paper": LossWeights(noise=0.5, variance_bound=0.5, identity=1.0),
}
"""The released training file and the paper disagree by a factor of 200. The paper writes
L = L_id + 0.5 L_noise (section 3.2) and does not mention the variance; here it shares the weight of the
noise, because a learned variance without a loss would stay where it began."""


class DenoiserRecipe(FrozenConfig):
    """How the denoiser is trained. Defaults are the published run, weighted as its code is.

    One recipe gives one run, whatever it is run on: the number of processes is no part of it. The published
    run took 700,000 steps on 8 GPUs.
    """

    steps: int = Field(default=700_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=48, ge=1, description="Rows of one optimiser step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows that go through the denoiser at once; gradients of the others are accumulated. "
        "None takes a process's whole share. Moves nothing but memory, time and rounding.",
    )

    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate over time."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear rise to the peak.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay, as in ADM.")
    gradient_clip: float = Field(
        default=1.0, gt=0, description="Limit of the whole step's gradient norm; ours, ADM has none."
    )
    ema_decay: float | None = Field(
        default=0.9999,
        gt=0,
        lt=1,
        description="Moving average of the weights, which the result takes (0.9999 in ADM); None is off.",
    )

    weighting: Literal["code", "paper"] = Field(
        default="code",
        description="Weights of noise, variance bound and identity: 1, 1, 0.01 as in the released code, or "
        "0.5, 0.5, 1 as the paper says.",
    )
    diffusion_steps: int = Field(default=1000, ge=2, description="Steps N of the linear schedule.")
    variance_bound_scale: Literal["per_thousand_steps", "none"] = Field(
        default="per_thousand_steps",
        description="The variance bound of one step times N / 1000 (improved DDPM's weight of 0.001 on the "
        "sum over all N steps); at N = 1000 it is 1. 'none' leaves the bound as it is.",
    )
    identity_pixels: Literal["as_sampling", "unnormalised"] = Field(
        default="as_sampling",
        description="What the face network of the identity term is shown: pixels normalised as they are when "
        "sampling, or the estimate's -1..1 in the place of ImageNet's normalised pixels, the published "
        "training's inconsistency (for a network that takes those off, simswap_arcface).",
    )
    identity_source: Literal["image", "other_photo"] = Field(
        default="image",
        description="Whose embedding conditions: the training image's own, as published, or another "
        "photograph's of the same person, which leaves nothing but the person to be read from it.",
    )
    checkpoint_interval: int = Field(default=250, ge=1, description="Steps between resumable states.")
    seed: int = Field(default=0, ge=0, description="Decides data order, steps of the diffusion and noise.")

    @property
    def weights(self) -> LossWeights:
        """Weights of the terms."""
        return WEIGHTINGS[self.weighting]

    @property
    def bound_scale(self) -> float:
        """Factor on the variance bound of one step, before its weight."""
        return 1.0 if self.variance_bound_scale == "none" else self.diffusion_steps / 1000

    def optimisation(self) -> TrainingRecipe:
        """What the shared optimiser, its schedule and the reader of batches look at, as their own recipe."""
        return TrainingRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
            identity_loss_weight=0.0,
            lpips_weight=0.0,
            trainable="everything",
            seed=self.seed,
        )
