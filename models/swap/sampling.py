"""Noise levels, guidance and Euler steps (APPLE inference; FLUX schedule)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.swap import constants
from models.swap.sampling_config import SamplingConfig
from models.swap.text import TextEmbedding
from models.swap.transformer import SwapTransformer

Velocity = Callable[[Tensor, float], Tensor]
"""A velocity field: (latents (B, L, C), noise level) -> velocity (B, L, C)."""


def shift_mu(tokens: int) -> float:
    """Return FLUX's mu for an image of `tokens` latent tokens, linear through (256, 0.5) and (4096, 1.15)."""
    (low, high), (mu_low, mu_high) = constants.SHIFT_TOKENS, constants.SHIFT_MU
    return mu_low + (mu_high - mu_low) * (tokens - low) / (high - low)


def shifted_sigmas(steps: int, tokens: int, *, shift: bool = True) -> Tensor:
    """Return the `steps` + 1 noise levels from 1 down to 0, float32.

    Unshifted they are linspace(1, 1/steps, steps) and 0; shifted, e^mu / (e^mu + 1/sigma - 1). Equal to
    diffusers' `FlowMatchEulerDiscreteScheduler` with `use_dynamic_shifting`.
    """
    sigmas = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64)
    if shift:
        e_mu = math.exp(shift_mu(tokens))
        sigmas = e_mu / (e_mu + (1.0 / sigmas - 1.0))
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float()


def noise_rows(seeds: Sequence[int], tokens: int, channels: int) -> Tensor:
    """Return standard normal (B, L, C) noise, each row from its own seed, whatever the batch."""
    rows = [
        torch.randn(tokens, channels, generator=torch.Generator("cpu").manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.stack(rows)


def euler(velocity: Velocity, latents_BLC: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the velocity along `sigmas` (any direction) with one evaluation per interval, at its start."""
    levels = sigmas.tolist()
    for here, there in pairwise(levels):
        latents_BLC = latents_BLC + (there - here) * velocity(latents_BLC, here)
    return latents_BLC


def midpoint(velocity: Velocity, latents_BLC: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the velocity with the explicit midpoint rule: second order, two evaluations per interval.

    The second evaluation is at the midpoint in both time and place. APPLE's `--second_order` moves the time
    alone, which is first order again.
    """
    levels = sigmas.tolist()
    for here, there in pairwise(levels):
        half = (there - here) / 2
        middle_BLC = latents_BLC + half * velocity(latents_BLC, here)
        latents_BLC = latents_BLC + (there - here) * velocity(middle_BLC, here + half)
    return latents_BLC


@dataclass(frozen=True)
class Inputs:
    """What the model sees of one batch besides the noisy latents.

    `condition_BLC` None removes the branch; `black_BLC` is the black image that image guidance contrasts
    with; `unconditional_BTD` the identity tokens that identity guidance contrasts with.
    """

    text: TextEmbedding
    condition_BLC: Tensor | None
    identity_BTD: Tensor | None
    black_BLC: Tensor | None = None
    unconditional_BTD: Tensor | None = None


def guided_velocity(model: SwapTransformer, inputs: Inputs, config: SamplingConfig) -> Velocity:
    """Return the velocity under all three guidances.

    With full = v(condition, identity), s_i and s_id the image and identity scales: v = full + (s_i - 1) (full
    - v(black, identity)) + (s_id - 1) (full - v(condition, no identity)). With one scale at 1 this is APPLE's
    formula for the other; APPLE refuses both at once. A scale of 1 costs nothing, any other one more pass.
    `guidance_scale` is the distilled scalar, at no cost.

    Raises ValueError when a guidance lacks what it contrasts with.
    """
    contrasts: list[tuple[float, Tensor | None, Tensor | None]] = []
    if config.image_guidance_scale != 1.0:
        if inputs.condition_BLC is None or inputs.black_BLC is None:
            raise ValueError("image guidance needs a condition image and the black one it is contrasted with")
        contrasts.append((config.image_guidance_scale - 1.0, inputs.black_BLC, inputs.identity_BTD))
    if config.id_guidance_scale != 1.0:
        if inputs.identity_BTD is None or inputs.unconditional_BTD is None:
            raise ValueError("identity guidance needs identity tokens and the unconditional ones")
        contrasts.append((config.id_guidance_scale - 1.0, inputs.condition_BLC, inputs.unconditional_BTD))

    def evaluate(latents: Tensor, sigma: float, condition: Tensor | None, identity: Tensor | None) -> Tensor:
        timestep = torch.full((len(latents),), sigma, device=latents.device, dtype=latents.dtype)
        return model(
            latents,
            timestep,
            inputs.text,
            condition_BLC=condition,
            identity_BTD=identity,
            guidance=config.guidance_scale,
        )

    def velocity(latents_BLC: Tensor, sigma: float) -> Tensor:
        full = evaluate(latents_BLC, sigma, inputs.condition_BLC, inputs.identity_BTD)
        guided = full
        for weight, condition, identity in contrasts:
            guided = guided + weight * (full - evaluate(latents_BLC, sigma, condition, identity))
        return guided

    return velocity
