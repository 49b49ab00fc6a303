"""One optimiser step of the denoiser: what is random in it, and the three terms of its loss, per row.

Everything random is a function of (seed, step, row of the whole step's batch). So any step can be repeated,
and it comes out the same, up to rounding, however its rows are shared among processes and micro batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.diffface.schedule import NoiseSchedule
from models.diffface.steps import interpret
from models.diffface.training_data import DenoiserBatch
from models.diffface.training_recipe import DenoiserRecipe
from models.diffface.variance_bound import variance_bound
from models.faces.network_inputs import IMAGENET_MEAN, IMAGENET_STD
from models.swap.seeds import NOISE, seeded_generator, step_seed

FaceEncoder = Callable[[Tensor, Tensor | None], Tensor]
"""Differentiable face embedder: (images (B, 3, H, W) in 0..1, five points (B, 5, 2) in their pixels or None)
-> embeddings (B, D). One that aligns faces needs the points; `models.swap.identity_crop` has them all."""


def draw_indices(recipe: DenoiserRecipe, step: int) -> Tensor:
    """Return the diffusion step of every row, int64 (B,), uniform; the same in every process."""
    generator = seeded_generator(step_seed(recipe.seed, step, NOISE))
    return torch.randint(recipe.diffusion_steps, (recipe.batch_size,), generator=generator)


def draw_noise(recipe: DenoiserRecipe, step: int, rows: range, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of some rows of a step's batch, `shape` each, on the CPU."""
    generators = [seeded_generator(step_seed(recipe.seed, step, NOISE, row)) for row in rows]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


@dataclass(frozen=True)
class RowLosses:
    """The terms of some rows, unweighted, divided by the rows of the whole step: their sums are the step's.

    `bound_B` has the recipe's scale already.
    """

    noise_B: Tensor
    bound_B: Tensor
    identity_B: Tensor

    def total_B(self, recipe: DenoiserRecipe) -> Tensor:
        """Return the weighted sum per row."""
        weights = recipe.weights
        return (
            weights.noise * self.noise_B
            + weights.variance_bound * self.bound_B
            + weights.identity * self.identity_B
        )


def pictures_to_signal(images_BHW3: Tensor) -> Tensor:
    """Return uint8 pictures as the diffusion sees them, float32 (B, 3, H, W) in -1..1."""
    return images_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def face_network_pixels(x0_BCHW: Tensor, recipe: DenoiserRecipe) -> Tensor:
    """Return what an encoder that takes 0..1 is given of an estimate, which is clamped to -1..1.

    "unnormalised" undoes beforehand what a network trained on ImageNet does to its pixels, so that it is fed
    the bare -1..1, as in the published training.
    """
    clamped = x0_BCHW.clamp(-1, 1)
    if recipe.identity_pixels == "as_sampling":
        return (clamped + 1) / 2
    mean, deviation = (clamped.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return clamped * deviation + mean


def row_losses(
    denoiser: nn.Module,
    batch: DenoiserBatch,
    rows: range,
    step: int,
    recipe: DenoiserRecipe,
    schedule: NoiseSchedule,
    encode_face: FaceEncoder | None,
    device: torch.device,
) -> RowLosses:
    """Return the losses of one micro batch, which is the named rows of the step's batch.

    Args:
        denoiser: with a learned variance.
        batch: those rows.
        rows: their places in the step's batch.
        step: 1-based.
        recipe: weights, scales and seeds.
        schedule: of `recipe.diffusion_steps`.
        encode_face: needed where the identity term has a weight.
        device: where the denoiser is.
    """
    index = draw_indices(recipe, step)[rows.start : rows.stop].to(device)
    clean = pictures_to_signal(batch.images_BHW3.to(device))
    identity = batch.identity_BD.to(device)
    noise = draw_noise(recipe, step, rows, tuple(clean.shape[1:])).to(device)
    noised = schedule.q_sample(clean, index, noise)
    timestep = schedule.timesteps(index, len(clean), device)
    prediction = interpret(denoiser(noised, timestep, identity), noised, index, schedule)
    noise_loss = (prediction.epsilon - noise).square().flatten(1).mean(dim=1)
    bound = variance_bound(prediction, clean, noised, index, schedule) * recipe.bound_scale
    identity_loss = torch.zeros_like(noise_loss)
    if encode_face is not None and recipe.weights.identity > 0:
        points = None if batch.points_B52 is None else batch.points_B52.to(device)
        seen = encode_face(face_network_pixels(prediction.x0_BCHW, recipe), points)
        identity_loss = 1 - functional.cosine_similarity(seen, identity, dim=1)
    return RowLosses(
        noise_loss / recipe.batch_size, bound / recipe.batch_size, identity_loss / recipe.batch_size
    )
