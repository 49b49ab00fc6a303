"""One optimiser step: what is random in it, and its losses over micro batches and processes.

Everything random is a function of (seed, step, row of the whole step's batch). So any step can be repeated,
and it comes out the same, up to rounding, however its rows are shared among processes and micro batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.swap.codec import LatentCodec
from models.swap.data import TrainingBatch
from models.swap.losses import (
    LossNetworks,
    clean_estimate,
    flow_matching_losses,
    flow_sample,
    gated_losses,
    logit_normal_timesteps,
    shifted,
)
from models.swap.seeds import NOISE, seeded_generator, step_seed
from models.swap.training_recipe import TrainingRecipe
from models.swap.transformer import SwapTransformer


@dataclass(frozen=True)
class StepDraws:
    """All that is random in a step besides data and noise, for every row of its batch (True: kept)."""

    timestep_B: Tensor
    prompted_B: Tensor
    conditioned_B: Tensor
    identified_B: Tensor
    proxied_B: Tensor
    with_branch: bool


def draw_step(recipe: TrainingRecipe, step: int) -> StepDraws:
    """Draw noise levels and dropouts of all rows of a step, on the CPU; the same in every process."""
    generator = seeded_generator(step_seed(recipe.seed, step, NOISE))
    rows = recipe.batch_size
    return StepDraws(
        timestep_B=shifted(logit_normal_timesteps(rows, generator), recipe.timestep_shift),
        prompted_B=torch.rand(rows, generator=generator) >= recipe.text_dropout,
        conditioned_B=torch.rand(rows, generator=generator) >= recipe.condition_dropout,
        identified_B=torch.rand(rows, generator=generator) >= recipe.identity_dropout,
        proxied_B=torch.rand(rows, generator=generator) < recipe.proxy_reconstruction,
        with_branch=bool(torch.rand((), generator=generator) >= recipe.branch_removal),
    )


def draw_noise(recipe: TrainingRecipe, step: int, rows: range, shape: torch.Size) -> Tensor:
    """Return the noise of some rows of a step's batch, `shape` each, on the CPU."""
    generators = [seeded_generator(step_seed(recipe.seed, step, NOISE, row)) for row in rows]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


@dataclass(frozen=True)
class Gates:
    """Rows of a step's batch behind the gates of both decoded losses, and what their sums are divided by."""

    identity_B: Tensor
    lpips_B: Tensor
    identity_divisor: int
    lpips_divisor: int

    @classmethod
    def of(cls, recipe: TrainingRecipe, draws: StepDraws, step: int) -> Gates:
        """Return the gates of a step; they look at all its rows, wherever these are worked on."""
        none = torch.zeros(recipe.batch_size, dtype=torch.bool)
        identity = lpips = none
        if recipe.identity_loss_weight > 0 and step > recipe.identity_loss_start:
            has_identity = draws.identified_B | recipe.identity_loss_on_dropped
            identity = (draws.timestep_B <= recipe.identity_loss_threshold) & has_identity
        if recipe.lpips_weight > 0 and step > recipe.lpips_start:
            lpips = draws.timestep_B <= recipe.lpips_threshold
        whole = recipe.gated_loss_normalisation == "all_rows"
        divisors = [recipe.batch_size if whole else max(1, int(gate.sum())) for gate in (identity, lpips)]
        return cls(identity, lpips, *divisors)


class BatchVelocity(nn.Module):
    """The forward pass of a step, as one module, so that data-parallel wrappers see all trainable weights.

    Number formats: latents, noise levels, targets and losses are float32; the frozen base computes in its own
    format (bfloat16 at full size), adapters in float32 on its activations, and their sum is rounded to the
    base's. There is no autocast: nothing else decides a format.
    """

    def __init__(self, model: SwapTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        noisy_BLC: Tensor,
        timestep_B: Tensor,
        prompted_B: Tensor,
        condition_BLC: Tensor | None,
        identity_BD: Tensor,
    ) -> Tensor:
        """Return predicted velocities (B, L, C), float32."""
        text = self.model.prompts(prompted_B)
        identity = self.model.identity_encoder(identity_BD)
        return self.model(noisy_BLC, timestep_B, text, condition_BLC=condition_BLC, identity_BTD=identity)


@dataclass(frozen=True)
class StepRows:
    """The rows of one step that this process works on, and how they are cut."""

    batch: TrainingBatch
    rows: range
    micro_batch_size: int

    def cuts(self) -> Iterator[tuple[TrainingBatch, range]]:
        """The micro batches in order, with their rows of the whole step's batch."""
        for start in range(0, len(self.rows), self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            yield _cut(self.batch, part), self.rows[part]


def _cut(batch: TrainingBatch, part: slice) -> TrainingBatch:
    optional = (batch.reference_BD, batch.points_B52)
    return TrainingBatch(
        batch.target_latents_BLC[part],
        batch.condition_latents_BLC[part],
        batch.identity_BD[part],
        *(None if value is None else value[part] for value in optional),
    )


@dataclass(frozen=True)
class RowLosses:
    """Losses of the rows of one micro batch, each divided as the recipe says: their sums are the step's."""

    flow_B: Tensor
    identity_B: Tensor
    lpips_B: Tensor

    def total_B(self, recipe: TrainingRecipe) -> Tensor:
        """Return the weighted sum per row."""
        gated_B = recipe.identity_loss_weight * self.identity_B + recipe.lpips_weight * self.lpips_B
        return self.flow_B + gated_B


def row_losses(
    forward: nn.Module,
    batch: TrainingBatch,
    rows: range,
    step: int,
    draws: StepDraws,
    recipe: TrainingRecipe,
    black_1LC: Tensor,
    *,
    codec: LatentCodec,
    networks: LossNetworks,
) -> RowLosses:
    """Return the losses of one micro batch, which is the named rows of the step's batch."""
    device = black_1LC.device
    here = slice(rows.start, rows.stop)
    target = batch.target_latents_BLC.to(device)
    noise = draw_noise(recipe, step, rows, target.shape[1:]).to(device)
    timestep = draws.timestep_B[here].to(device)
    sample = flow_sample(target, noise, timestep)
    condition = None
    if draws.with_branch:
        proxied = draws.proxied_B[here].to(device)[:, None, None]
        condition = torch.where(proxied, target, batch.condition_latents_BLC.to(device))
        conditioned = draws.conditioned_B[here].to(device)[:, None, None]
        condition = torch.where(conditioned, condition, black_1LC)
    identity = batch.identity_BD.to(device)
    identified = draws.identified_B[here].to(device)
    predicted = forward(
        sample.noisy_BLC,
        timestep,
        draws.prompted_B[here].to(device),
        condition,
        identity * identified[:, None],
    ).float()
    gates = Gates.of(recipe, draws, step)
    reference = identity if batch.reference_BD is None else batch.reference_BD.to(device)
    gated = gated_losses(
        clean_estimate(sample.noisy_BLC, predicted, timestep),
        gates.identity_B[here].to(device),
        gates.lpips_B[here].to(device),
        codec=codec,
        networks=networks,
        reference_BD=reference,
        points_B52=None if batch.points_B52 is None else batch.points_B52.to(device),
        target_latents_BLC=target,
    )
    return RowLosses(
        flow_matching_losses(predicted, sample.velocity_BLC) / recipe.batch_size,
        gated.identity_B / gates.identity_divisor,
        gated.lpips_B / gates.lpips_divisor,
    )
