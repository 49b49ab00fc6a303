"""Identity-conditioned training of the denoiser: deterministic, resumable, by any number of processes.

The noise is learned, the variance by its bound, and the estimate of the clean image is to show whom the
identity says (DiffFace, section 3.2). The original's training file imports a missing module; this one runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from models.diffface.denoiser import Denoiser
from models.diffface.schedule import linear_schedule
from models.diffface.training_data import DenoiserBatch, DenoiserData
from models.diffface.training_losses import FaceEncoder, row_losses
from models.diffface.training_recipe import DenoiserRecipe
from models.swap.optimisers import MovingAverage
from models.swap.reading import ReadBatch, read_batches
from models.swap.training_run import TrainingRun, accelerator_on, need_finite, own_rows


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step over all processes: their weighted sum and its unweighted parts.

    `gradient_norm` is before clipping; `learning_rate` what the step moved at.
    """

    total: float
    noise: float
    variance_bound: float
    identity: float
    gradient_norm: float
    learning_rate: float


def train_denoiser(
    denoiser: Denoiser,
    data: DenoiserData,
    recipe: DenoiserRecipe,
    output_dir: Path,
    *,
    encode_face: FaceEncoder | None = None,
    provenance: Mapping[str, str] | None = None,
    device: str = "cpu",
    read_ahead: int = 1,
    on_resume: Callable[[list[StepLosses]], None] | None = None,
    on_step: Callable[[int, StepLosses, MovingAverage | None], None] | None = None,
    on_half_saved: Callable[[int], None] | None = None,
) -> list[StepLosses]:
    """Train all of a denoiser in place, resuming whatever `output_dir` holds of this very run.

    Every `checkpoint_interval` steps, and at the end, weights, optimiser, moving average and step are saved
    atomically; `losses.jsonl` gets a line per step. A killed run started again gives bit-equal weights on the
    CPU. Started by `torchrun` or `accelerate launch`, the processes share the rows of every step, and only
    the main one writes; all must see the same `output_dir`. In the end the denoiser holds the moving average.

    Args:
        denoiser: with a learned variance; its torso in float32.
        data: where batches come from; it must depend on the given generator alone.
        recipe: how to train.
        output_dir: the run's own folder.
        encode_face: the frozen face network of the identity term, on the device of the training.
        provenance: digests of what the run starts from and learns from; a resume with other ones is refused.
        device: "cpu" keeps to the CPU even where there is a GPU; anything else takes accelerate's choice.
        read_ahead: batches read before their time; decides nothing but waiting.
        on_resume: called once before the first step with the losses of the steps that are done already.
        on_step: called with the 1-based step, its losses and the moving average.
        on_half_saved: called with the step whenever a state is half written, so that tests can kill there.

    Returns:
        The losses of all steps, the resumed ones too.

    Raises:
        FloatingPointError: a loss is not finite; names the step and the rows.
        ResumeMismatch: `output_dir` belongs to another run.
        ValueError: the denoiser or the recipe cannot be trained so, or the batch cannot be shared.
        RuntimeError: a GPU was asked for and there is none, or processes see different folders.
    """
    _check(denoiser, recipe, encode_face)
    denoiser.requires_grad_(True).train()
    accelerator = accelerator_on(device)
    optimisation = recipe.optimisation()
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "config": denoiser.config.model_dump(mode="json"),
        **(provenance or {}),
    }
    run = TrainingRun(
        accelerator,
        denoiser,
        dict(denoiser.named_parameters()),
        optimisation,
        output_dir,
        identity,
        StepLosses,
        checkpoint_interval=recipe.checkpoint_interval,
        on_half_saved=on_half_saved,
    )
    if on_resume is not None:
        on_resume(run.losses)
    loop = _Loop(accelerator, run.forward, recipe, encode_face)
    with run.logging():
        for read in read_batches(data, optimisation, loop.rows, run.steps, ahead=read_ahead):
            numbers = run.step(read, loop.gradients)
            run.save_if_due(read.step)
            if on_step is not None:
                on_step(read.step, numbers, run.average)
    denoiser.eval()
    run.finish()
    return run.losses


def _check(denoiser: Denoiser, recipe: DenoiserRecipe, encode_face: FaceEncoder | None) -> None:
    """Refuse what cannot be trained."""
    if not denoiser.config.learn_sigma:
        raise ValueError("the variance bound needs a denoiser with a learned variance (learn_sigma)")
    if denoiser.config.torso_dtype != "float32":
        raise ValueError(
            f"weights are trained in float32, the denoiser's torso is {denoiser.config.torso_dtype}; "
            "build it with torso_dtype 'float32' and cast it afterwards"
        )
    if recipe.weights.identity > 0 and encode_face is None:
        raise ValueError(
            f"the weighting {recipe.weighting!r} has an identity term, and no face network was given: "
            "configure one of the roles simswap_arcface, world_embedder"
        )


class _Loop:
    """What stays the same from step to step in one process."""

    def __init__(
        self,
        accelerator: Accelerator,
        forward: nn.Module,
        recipe: DenoiserRecipe,
        encode_face: FaceEncoder | None,
    ) -> None:
        self.rows = own_rows(accelerator, recipe.batch_size)
        self._accelerator, self._forward, self._recipe = accelerator, forward, recipe
        self._encode_face, self._schedule = encode_face, linear_schedule(recipe.diffusion_steps)

    def gradients(self, read: ReadBatch[DenoiserBatch]) -> tuple[float, float, float, float]:
        """Accumulate one step's gradients; return the total and the terms over all processes."""
        recipe, accelerator = self._recipe, self._accelerator
        cuts = list(_cuts(read.batch, self.rows, recipe.micro_batch_size or len(self.rows)))
        sums = torch.zeros(4, device=accelerator.device)
        for number, (batch, rows) in enumerate(cuts, start=1):
            # gradients travel between processes once a step, with the last micro batch
            quiet = number < len(cuts)
            with accelerator.no_sync(self._forward) if quiet else contextlib.nullcontext():
                losses = row_losses(
                    self._forward,
                    batch,
                    rows,
                    read.step,
                    recipe,
                    self._schedule,
                    self._encode_face,
                    accelerator.device,
                )
                total_B = losses.total_B(recipe)
                need_finite(read, self.rows, rows, total_B)
                # DDP averages over processes, and each row's loss is divided by the whole batch already
                accelerator.backward(total_B.sum() * accelerator.num_processes)
            parts = (total_B, losses.noise_B, losses.bound_B, losses.identity_B)
            sums += torch.stack([part.detach().sum() for part in parts])
        total, noise, bound, identity = accelerator.reduce(sums, "sum").tolist()  # type: ignore[union-attr] -- a tensor in, a tensor out
        return total, noise, bound, identity


def _cuts(batch: DenoiserBatch, rows: range, size: int) -> Iterator[tuple[DenoiserBatch, range]]:
    """The micro batches of a process's rows in order, with their places in the whole step's batch."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        points = None if batch.points_B52 is None else batch.points_B52[part]
        yield DenoiserBatch(batch.images_BHW3[part], batch.identity_BD[part], points), rows[part]
