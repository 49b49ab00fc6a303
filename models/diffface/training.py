"""Identity-conditioned training of the denoiser: deterministic, resumable, by any number of processes.

The noise is learned, the variance by its bound, and the estimate of the clean image is to show whom the
identity says (DiffFace, section 3.2). The original's training file imports a missing module; this one runs.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from models.diffface.denoiser import Denoiser
from models.diffface.schedule import linear_schedule
from models.diffface.training_data import DenoiserBatch, DenoiserData
from models.diffface.training_losses import FaceEncoder, row_losses
from models.diffface.training_recipe import DenoiserRecipe
from models.swap.optimisers import MovingAverage, build_optimiser, learning_rate, set_learning_rate
from models.swap.processes import agreed
from models.swap.reading import ReadBatch, read_batches
from models.swap.training_state import clear_unfinished_states, load_latest_state, save_state

LOSSES_NAME = "losses.jsonl"


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
    handler = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[handler])
    if device != "cpu" and accelerator.device.type == "cpu":
        raise RuntimeError(
            f"device {device} was asked for, and accelerate finds none; ask for cpu to train there"
        )
    parameters = dict(denoiser.named_parameters())
    optimisation = recipe.optimisation()
    optimiser = build_optimiser(optimisation, parameters)
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "config": denoiser.config.model_dump(mode="json"),
        **(provenance or {}),
    }
    forward, wrapped = accelerator.prepare(denoiser, optimiser)
    average = None if recipe.ema_decay is None else MovingAverage(parameters, recipe.ema_decay)
    with accelerator.main_process_first():
        output_dir.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            clear_unfinished_states(output_dir)
        done = load_latest_state(output_dir, identity, parameters, optimiser, average)
        losses = _truncate_losses(output_dir / LOSSES_NAME, done, write=accelerator.is_main_process)
    if not agreed(done):
        raise RuntimeError(
            f"processes found training states of different steps under {output_dir}; "
            "give all machines one shared folder"
        )
    if on_resume is not None:
        on_resume(losses)
    loop = _Loop(accelerator, forward, recipe, encode_face)
    steps = range(done + 1, recipe.steps + 1)
    with contextlib.ExitStack() as stack:
        log = None
        if accelerator.is_main_process:
            log = stack.enter_context((output_dir / LOSSES_NAME).open("a", encoding="utf-8"))
        for read in read_batches(data, optimisation, loop.rows, steps, ahead=read_ahead):
            step, rate = read.step, learning_rate(optimisation, read.step)
            set_learning_rate(optimiser, rate)
            wrapped.zero_grad(set_to_none=True)
            sums = loop.gradients(read)
            norm = accelerator.clip_grad_norm_(list(parameters.values()), recipe.gradient_clip)
            wrapped.step()
            if average is not None:
                average.update(step)
            numbers = StepLosses(*sums, float(norm or 0.0), rate)
            losses.append(numbers)
            if log is not None:
                log.write(json.dumps({"step": step, **asdict(numbers)}) + "\n")
                if step % recipe.checkpoint_interval == 0 or step == recipe.steps:
                    log.flush()
                    save_state(output_dir, step, identity, parameters, optimiser, average, on_half_saved)
            if on_step is not None:
                on_step(step, numbers, average)
    denoiser.eval()
    if average is not None:
        average.copy_to_parameters()
    return losses


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
        processes = accelerator.num_processes
        if recipe.batch_size % processes:
            raise ValueError(
                f"a batch of {recipe.batch_size} rows cannot be shared equally by {processes} processes; "
                "start a number of processes that divides it"
            )
        share = recipe.batch_size // processes
        self.rows = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
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
                self._need_finite(read, rows, total_B)
                # DDP averages over processes, and each row's loss is divided by the whole batch already
                accelerator.backward(total_B.sum() * accelerator.num_processes)
            parts = (total_B, losses.noise_B, losses.bound_B, losses.identity_B)
            sums += torch.stack([part.detach().sum() for part in parts])
        total, noise, bound, identity = accelerator.reduce(sums, "sum").tolist()  # type: ignore[union-attr] -- a tensor in, a tensor out
        return total, noise, bound, identity

    def _need_finite(self, read: ReadBatch[DenoiserBatch], rows: range, total_B: Tensor) -> None:
        finite = torch.isfinite(total_B.detach()).tolist()
        if all(finite):
            return
        bad = [row for row, good in zip(rows, finite, strict=True) if not good]
        drawn = [read.choices_BK[row - self.rows.start].tolist() for row in bad]
        value = float(total_B.detach().sum())
        hint = "lower the learning rate" if math.isinf(value) else "lower it, or look at these rows"
        raise FloatingPointError(
            f"loss of step {read.step} is {value} in rows {bad} of its batch (drawn as {drawn}); {hint}"
        )


def _cuts(batch: DenoiserBatch, rows: range, size: int) -> Iterator[tuple[DenoiserBatch, range]]:
    """The micro batches of a process's rows in order, with their places in the whole step's batch."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        points = None if batch.points_B52 is None else batch.points_B52[part]
        yield DenoiserBatch(batch.images_BHW3[part], batch.identity_BD[part], points), rows[part]


def _truncate_losses(path: Path, steps: int, *, write: bool) -> list[StepLosses]:
    """Cut the log back to its first `steps` lines (a killed run is ahead of its state) and return them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
    if len(lines) < steps:
        raise ValueError(
            f"{path} has {len(lines)} lines, the saved state is at step {steps}; delete the run's folder"
        )
    if write:
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return [
        StepLosses(**{name: value for name, value in json.loads(line).items() if name != "step"})
        for line in lines
    ]
