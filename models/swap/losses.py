"""Training losses: flow matching, and identity loss and LPIPS behind gates on the noise (APPLE, training).

Every loss is given per row, so that a step's sum is the same however its rows are cut into micro batches and
shared among processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.swap.codec import LatentCodec

FaceEncoder = Callable[[Tensor, Tensor | None], Tensor]
"""Differentiable face embedder: (images (B, 3, H, W) in 0..1, five points (B, 5, 2) in their pixels or None)
-> embeddings (B, D). One that aligns faces needs the points."""

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""LPIPS or its like: two batches of images (B, 3, H, W) in -1..1 -> distances (B,)."""


@dataclass(frozen=True)
class LossNetworks:
    """The frozen networks of the gated losses; a recipe that wants a loss needs its network."""

    encode_face: FaceEncoder | None = None
    perceptual: PerceptualDistance | None = None


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


def shifted(timestep_B: Tensor, shift: float) -> Tensor:
    """Return noise levels moved towards 1 (`shift` > 1): s t / (1 + (s - 1) t), as FLUX moves its own."""
    return shift * timestep_B / (1 + (shift - 1) * timestep_B)


def flow_sample(latents_BLC: Tensor, noise_BLC: Tensor, timestep_B: Tensor) -> FlowSample:
    """Return the point of the path at each row's noise level, with its true velocity."""
    t = timestep_B[:, None, None]
    return FlowSample((1 - t) * latents_BLC + t * noise_BLC, noise_BLC - latents_BLC, timestep_B)


def clean_estimate(noisy_BLC: Tensor, velocity_BLC: Tensor, timestep_B: Tensor) -> Tensor:
    """Return the clean latents that a predicted velocity implies: x_t - t v."""
    return noisy_BLC - timestep_B[:, None, None] * velocity_BLC


def flow_matching_losses(predicted_BLC: Tensor, velocity_BLC: Tensor) -> Tensor:
    """Return each row's plain mean squared error of the velocity, (B,)."""
    return (predicted_BLC.float() - velocity_BLC.float()).square().mean(dim=(1, 2))


@dataclass(frozen=True)
class GatedLosses:
    """Identity loss and LPIPS of each row, (B,) float32; 0 where the row is not behind the gate."""

    identity_B: Tensor
    lpips_B: Tensor


def gated_losses(
    clean_BLC: Tensor,
    identity_rows_B: Tensor,
    lpips_rows_B: Tensor,
    *,
    codec: LatentCodec,
    networks: LossNetworks,
    reference_BD: Tensor,
    points_B52: Tensor | None,
    target_latents_BLC: Tensor,
) -> GatedLosses:
    """Return 1 - cosine(reference, embedding) and the LPIPS of the decoded estimates of the named rows.

    Rows that either loss wants are decoded once, no others, and none at all where nothing is wanted. APPLE
    decodes every row of every step.

    LPIPS compares with the decoded latents of the target, without gradient. The original compares with the
    photograph's pixels, which differ by what its autoencoder loses; cached latents hold no pixels, and the
    best that a model of latents can reach is then a loss of 0.

    Args:
        clean_BLC: estimates of the clean latents, with gradient.
        identity_rows_B: bool, rows of the identity loss.
        lpips_rows_B: bool, rows of LPIPS.
        codec: decodes.
        networks: the loss's network must be there where one of its rows is True.
        reference_BD: the loss network's own embedding of the source photograph.
        points_B52: five points of the target in pixels of the decoded frame; None where the face network
            aligns nothing.
        target_latents_BLC: latents of the ground truth.

    Raises:
        ValueError: the reference embeddings are another network's.
    """
    zeros_B = clean_BLC.new_zeros(len(clean_BLC), dtype=torch.float32)
    wanted = torch.nonzero(identity_rows_B | lpips_rows_B).flatten()
    if not len(wanted):
        return GatedLosses(zeros_B, zeros_B)
    images_NCHW = codec.decode_differentiable(clean_BLC[wanted]).float()
    identity_B, lpips_B = zeros_B, zeros_B
    seen = identity_rows_B[wanted]
    if bool(seen.any()):
        assert networks.encode_face is not None  # `train` refuses a recipe whose network lacks
        rows = wanted[seen]
        points = None if points_B52 is None else points_B52[rows]
        embeddings_ND = networks.encode_face(images_NCHW[seen].clamp(0, 1), points)
        if embeddings_ND.shape[1] != reference_BD.shape[1]:
            raise ValueError(
                f"the face network of the identity loss gives {embeddings_ND.shape[1]} numbers, the "
                f"reference embeddings have {reference_BD.shape[1]}: they must be its own, of the source "
                "photographs"
            )
        cosines_N = F.cosine_similarity(embeddings_ND.float(), reference_BD[rows].float(), dim=1)
        identity_B = zeros_B.index_put((rows,), 1 - cosines_N)
    seen = lpips_rows_B[wanted]
    if bool(seen.any()):
        assert networks.perceptual is not None  # as above
        rows = wanted[seen]
        with torch.no_grad():
            truth_NCHW = codec.decode_differentiable(target_latents_BLC[rows]).float().clamp(0, 1)
        distances_N = networks.perceptual(images_NCHW[seen].clamp(0, 1) * 2 - 1, truth_NCHW * 2 - 1)
        lpips_B = zeros_B.index_put((rows,), distances_N.float())
    return GatedLosses(identity_B, lpips_B)
