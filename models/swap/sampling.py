"""Noise levels, guidance, and steps along the velocity (APPLE inference; FLUX schedule)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from models.swap import constants
from models.swap.condition_cache import ConditionCache
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


def integrate(velocity: Velocity, latents_BLC: Tensor, sigmas: Tensor, *, second_order: bool) -> Tensor:
    """Follow the velocity along `sigmas` by `midpoint` or by `euler` steps."""
    return (midpoint if second_order else euler)(velocity, latents_BLC, sigmas)


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

    `condition` None removes the branch; `black` is the black image that image guidance contrasts with; each
    is latents (B, L, C) or what was cached of them. `unconditional_BTD` are the identity tokens that identity
    guidance contrasts with.
    """

    text: TextEmbedding
    condition: Tensor | ConditionCache | None
    identity_BTD: Tensor | None
    black: Tensor | ConditionCache | None = None
    unconditional_BTD: Tensor | None = None


def with_cached_conditions(model: SwapTransformer, inputs: Inputs, config: SamplingConfig) -> Inputs:
    """Replace latents of conditions by their caches, to be used in all steps, guidances and the inversion.

    The black one is encoded if image guidance needs it. Raises CacheUnavailable where the weights allow no
    cache.
    """

    def cached(condition: Tensor | ConditionCache | None) -> ConditionCache | None:
        if isinstance(condition, Tensor):
            return model.encode_condition(condition, inputs.text)
        return condition

    contrasted = inputs.condition is not None and config.image_guidance_scale != 1.0
    return replace(
        inputs,
        condition=cached(inputs.condition),
        black=cached(inputs.black) if contrasted else None,
    )


def guided_velocity(model: SwapTransformer, inputs: Inputs, config: SamplingConfig) -> Velocity:
    """Return the velocity under all three guidances.

    With full = v(condition, identity), s_i and s_id the image and identity scales: v = full + (s_i - 1) (full
    - v(black, identity)) + (s_id - 1) (full - v(condition, no identity)). With one scale at 1 this is APPLE's
    formula for the other; APPLE refuses both at once. A scale of 1 costs nothing, any other one more pass.
    `guidance_scale` is the distilled scalar, at no cost.

    Raises ValueError when a guidance lacks what it contrasts with.
    """
    contrasts: list[tuple[float, Tensor | ConditionCache | None, Tensor | None]] = []
    if config.image_guidance_scale != 1.0:
        if inputs.condition is None or inputs.black is None:
            raise ValueError("image guidance needs a condition image and the black one it is contrasted with")
        contrasts.append((config.image_guidance_scale - 1.0, inputs.black, inputs.identity_BTD))
    if config.id_guidance_scale != 1.0:
        if inputs.identity_BTD is None or inputs.unconditional_BTD is None:
            raise ValueError("identity guidance needs identity tokens and the unconditional ones")
        contrasts.append((config.id_guidance_scale - 1.0, inputs.condition, inputs.unconditional_BTD))

    def evaluate(
        latents: Tensor, sigma: float, condition: Tensor | ConditionCache | None, identity: Tensor | None
    ) -> Tensor:
        timestep = torch.full((len(latents),), sigma, device=latents.device, dtype=latents.dtype)
        return model(
            latents,
            timestep,
            inputs.text,
            condition_BLC=condition if isinstance(condition, Tensor) else None,
            condition_cache=condition if isinstance(condition, ConditionCache) else None,
            identity_BTD=identity,
            guidance=config.guidance_scale,
        )

    def velocity(latents_BLC: Tensor, sigma: float) -> Tensor:
        full = evaluate(latents_BLC, sigma, inputs.condition, inputs.identity_BTD)
        guided = full
        for weight, condition, identity in contrasts:
            guided = guided + weight * (full - evaluate(latents_BLC, sigma, condition, identity))
        return guided

    return velocity
