"""Training losses: flow matching, and the identity loss behind a noise gate (APPLE, training section)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.swap.codec import LatentCodec

FaceEncoder = Callable[[Tensor], Tensor]
"""Differentiable face embedder: images (B, 3, H, W) in 0..1 -> embeddings (B, D)."""


@dataclass(frozen=True)
class FlowSample:
    """One point of the straight path from image to noise: x_t = (1 - t) x_0 + t noise, velocity = noise -
    x_0.
    """

    noisy_BLC: Tensor
    velocity_BLC: Tensor
    timestep_B: Tensor


def logit_normal_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Return `batch` noise levels sigmoid(N(0, 1)), unshifted, as APPLE trains."""
    return torch.sigmoid(torch.randn(batch, generator=generator))


def flow_sample(latents_BLC: Tensor, noise_BLC: Tensor, timestep_B: Tensor) -> FlowSample:
    """Return the point of the path at each row's noise level, with its true velocity."""
    t = timestep_B[:, None, None]
    return FlowSample((1 - t) * latents_BLC + t * noise_BLC, noise_BLC - latents_BLC, timestep_B)


def clean_estimate(noisy_BLC: Tensor, velocity_BLC: Tensor, timestep_B: Tensor) -> Tensor:
    """Return the clean latents that a predicted velocity implies: x_t - t v."""
    return noisy_BLC - timestep_B[:, None, None] * velocity_BLC


def flow_matching_loss(predicted_BLC: Tensor, velocity_BLC: Tensor) -> Tensor:
    """Return the plain mean squared error of the velocity, a scalar."""
    return F.mse_loss(predicted_BLC.float(), velocity_BLC.float())


def identity_loss(
    clean_BLC: Tensor,
    timestep_B: Tensor,
    wanted_BD: Tensor,
    has_identity_B: Tensor,
    *,
    codec: LatentCodec,
    encode_face: FaceEncoder,
    threshold: float,
) -> Tensor:
    """Return the mean of 1 - cosine(wanted, embedding of the decoded estimate), a scalar.

    Only rows with t <= threshold and with an identity count, and only they are decoded: nothing is decoded
    when no row needs it, and the loss is then 0. APPLE decodes every row, and keeps the loss where the
    identity was dropped.
    """
    rows = torch.nonzero((timestep_B <= threshold) & has_identity_B).flatten()
    if len(rows) == 0:
        return clean_BLC.new_zeros(())
    images_BCHW = codec.decode_differentiable(clean_BLC[rows])
    embeddings_BD = encode_face(images_BCHW.clamp(0, 1))
    return (1 - F.cosine_similarity(embeddings_BD.float(), wanted_BD[rows].float(), dim=1)).mean()
