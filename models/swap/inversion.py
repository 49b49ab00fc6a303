"""Attribute-aware inversion: from a target's latents back to the noise that carries them (APPLE, inversion
section).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from models.swap.sampling import Inputs, Velocity, guided_velocity, integrate
from models.swap.sampling_config import InversionConditioning, SamplingConfig
from models.swap.transformer import SwapTransformer


def inversion_inputs(
    conditioning: InversionConditioning, inputs: Inputs, target_identity_BTD: Tensor | None
) -> Inputs:
    """Return what the model sees while inverting: APPLE's four choices.

    `trgCond` keeps the target's condition image and `noCond` removes the branch; `trgID` is the target's own
    identity and `noID` the unconditional tokens. The paper's choice, attribute-only, is `noID_trgCond`.

    Raises ValueError when the choice needs a condition, identity or unconditional tokens that are not there.
    """
    identity_word, condition_word = conditioning.split("_")
    identity = target_identity_BTD if identity_word == "trgID" else inputs.unconditional_BTD
    condition = inputs.condition if condition_word == "trgCond" else None
    if identity is None:
        missing = "the target's identity" if identity_word == "trgID" else "the unconditional identity tokens"
        raise ValueError(f"inversion '{conditioning}' needs {missing}")
    if condition_word == "trgCond" and condition is None:
        raise ValueError(f"inversion '{conditioning}' needs the target's condition image")
    return replace(inputs, condition=condition, identity_BTD=identity)


def partial_sigmas(sigmas: Tensor, inverse_steps: int | None) -> Tensor:
    """Return the last `inverse_steps` intervals of the descending noise levels, or all of them.

    Inversion climbs and sampling descends these very levels, so a partial inversion starts its sampling where
    it stopped (APPLE's code takes the step sizes of the other end).
    """
    return sigmas if inverse_steps is None else sigmas[-(inverse_steps + 1) :]


def invert(velocity: Velocity, latents_BLC: Tensor, sigmas: Tensor, *, second_order: bool = False) -> Tensor:
    """Integrate clean latents (B, L, C) up the descending `sigmas`, starting at noise level 0.

    With n steps the noise found is off by O(1/n), or by O(1/n^2) with `second_order`. A way back by Euler
    steps is off by O(1/n) whatever the way there; by midpoint steps it is O(1/n^3), for the leading errors of
    the two ways cancel.
    """
    return integrate(velocity, latents_BLC, sigmas.flip(0), second_order=second_order)


def inversion_velocity(model: SwapTransformer, inputs: Inputs, config: SamplingConfig) -> Velocity:
    """Return the velocity used while inverting: all guidances are 1, as in the paper."""
    unguided = config.model_copy(
        update={"guidance_scale": 1.0, "image_guidance_scale": 1.0, "id_guidance_scale": 1.0}
    )
    return guided_velocity(model, inputs, unguided)
