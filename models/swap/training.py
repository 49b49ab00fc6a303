"""The training loop of teacher, student and base: deterministic, resumable, one for every size of model."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from models.swap.codec import LatentCodec
from models.swap.data import TrainingBatch, TrainingData
from models.swap.lora_files import apply_lora, lora_state
from models.swap.losses import LossNetworks
from models.swap.optimisers import (
    MovingAverage,
    build_optimiser,
    effective_rate,
    learning_rate,
    set_learning_rate,
)
from models.swap.processes import agreed
from models.swap.reading import ReadBatch, read_batches
from models.swap.step import BatchVelocity, RowLosses, StepRows, draw_step, row_losses
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_state import clear_unfinished_states, load_latest_state, save_state
from models.swap.transformer import SwapTransformer
from models.swap.validation import Validation, validation_grid

LOSSES_NAME = "losses.jsonl"


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step over all processes: their weighted sum and its parts.

    `gradient_norm` is before clipping; `learning_rate` what the step moved at.
    """

    total: float
    flow: float
    identity: float
    lpips: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingResult:
    """The trained adapters in file layout (all weights, if everything was trained), and all losses."""

    lora_state: dict[str, Tensor]
    losses: list[StepLosses]


def train(
    model: SwapTransformer,
    data: TrainingData,
    recipe: TrainingRecipe,
    output_dir: Path,
    *,
    codec: LatentCodec,
    black_latents_LC: Tensor,
    networks: LossNetworks | None = None,
    validation: Validation | None = None,
    initial_lora: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, str] | None = None,
    device: str = "cpu",
    read_ahead: int = 1,
    on_resume: Callable[[list[StepLosses]], None] | None = None,
    on_step: Callable[[int, StepLosses], None] | None = None,
    on_half_saved: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Train adapters (or everything) in place, resuming whatever `output_dir` holds of this very run.

    Every `checkpoint_interval` steps, and at the end, weights, optimiser, moving average and step are saved
    atomically; `losses.jsonl` gets a line per step. A killed run started again gives bit-equal weights on the
    CPU. Started by `torchrun` or `accelerate launch`, the processes share the rows of every step, and only
    the main one writes; all must see the same `output_dir`.

    Args:
        model: gets adapters (seeded by the recipe) unless it has them.
        data: where batches come from; it must depend on the given generator alone.
        recipe: how to train.
        output_dir: the run's own folder.
        codec: decodes estimates for identity loss and LPIPS, and the pictures of validation.
        black_latents_LC: latents of a black image, what condition dropout shows.
        networks: the frozen networks of identity loss and LPIPS.
        validation: what to swap every `validation_interval` steps; None validates nothing.
        initial_lora: adapters to start from (the teacher's, for a student).
        provenance: digests of base and data; a resume with other ones is refused.
        device: "cpu" keeps to the CPU even where there is a GPU; anything else takes accelerate's choice.
        read_ahead: batches read before their time; decides nothing but waiting.
        on_resume: called once before the first step with the losses of the steps that are done already.
        on_step: called with the 1-based step and its losses.
        on_half_saved: called with the step whenever a state is half written, so that tests can kill there.

    Raises:
        FloatingPointError: a loss is not finite; names the step and the rows.
        ResumeMismatch: `output_dir` belongs to another run.
        ValueError: the recipe wants a loss whose network was not given, or its batch cannot be shared.
        RuntimeError: a GPU was asked for and there is none, or processes see different folders.
    """
    networks = networks or LossNetworks()
    _need_networks(recipe, networks)
    parameters = _trainable(model, recipe, initial_lora)
    model.gradient_checkpointing = recipe.gradient_checkpointing
    # Adapters that only feed the last block's discarded condition output never get a gradient, and without
    # the branch none does: DDP has to look which are in use. Buffers are constants, equal from the start.
    handler = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[handler])
    if device != "cpu" and accelerator.device.type == "cpu":
        raise RuntimeError(
            f"device {device} was asked for, and accelerate finds none; ask for cpu to train there"
        )
    optimiser = build_optimiser(recipe, parameters)
    forward = BatchVelocity(model).train()
    identity = {"recipe": recipe.model_dump(mode="json"), "config": model.config.model_dump(mode="json")}
    identity |= dict(provenance or {})
    forward, wrapped = accelerator.prepare(forward, optimiser)
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
    loop = _Loop(accelerator, forward, recipe, codec, networks, black_latents_LC.to(accelerator.device)[None])
    steps = range(done + 1, recipe.steps + 1)
    with contextlib.ExitStack() as stack:
        log = None
        if accelerator.is_main_process:
            log = stack.enter_context((output_dir / LOSSES_NAME).open("a", encoding="utf-8"))
        for read in read_batches(data, recipe, loop.rows, steps, ahead=read_ahead):
            step = read.step
            set_learning_rate(optimiser, learning_rate(recipe, step))
            wrapped.zero_grad(set_to_none=True)
            sums = loop.gradients(read)
            norm = accelerator.clip_grad_norm_(list(parameters.values()), recipe.gradient_clip)
            wrapped.step()
            if average is not None:
                average.update(step)
            numbers = StepLosses(*sums, float(norm or 0.0), effective_rate(optimiser))
            losses.append(numbers)
            if log is not None:
                log.write(json.dumps({"step": step, **asdict(numbers)}) + "\n")
            interval = recipe.validation_interval
            if validation is not None and interval is not None and step % interval == 0:
                _validate(model, codec, validation, average, accelerator, recipe.seed, step)
            if log is not None and (step % recipe.checkpoint_interval == 0 or step == recipe.steps):
                log.flush()
                save_state(output_dir, step, identity, parameters, optimiser, average, on_half_saved)
            if on_step is not None:
                on_step(step, numbers)
    model.eval()
    if average is not None:
        average.copy_to_parameters()
    if recipe.trainable == "lora":
        return TrainingResult(lora_state(model), losses)
    return TrainingResult({name: value.detach().cpu().clone() for name, value in parameters.items()}, losses)


def _need_networks(recipe: TrainingRecipe, networks: LossNetworks) -> None:
    """Refuse a recipe that wants a loss which cannot be computed."""
    if recipe.needs_identity_network and networks.encode_face is None:
        raise ValueError(
            f"the recipe has an identity loss (identity_loss_weight {recipe.identity_loss_weight} from step "
            f"{recipe.identity_loss_start + 1} on), and no face network was given: configure one of the "
            "roles simswap_arcface, ir_se50, dlib_face_recognition, world_embedder, or set "
            "identity_loss_weight to 0"
        )
    if recipe.needs_perceptual_network and networks.perceptual is None:
        raise ValueError(
            f"the recipe has an LPIPS loss (lpips_weight {recipe.lpips_weight} from step "
            f"{recipe.lpips_start + 1} on), and no network was given: configure the roles vgg16 and "
            "lpips_vgg, or set lpips_weight to 0"
        )


def _trainable(
    model: SwapTransformer, recipe: TrainingRecipe, initial_lora: Mapping[str, Tensor] | None
) -> dict[str, nn.Parameter]:
    if recipe.trainable == "everything":
        if initial_lora is not None:
            raise ValueError("initial_lora is for training adapters, not everything")
        model.requires_grad_(True)
        return dict(model.named_parameters())
    if not model.has_lora:
        model.add_lora(model.config.lora, seed=recipe.seed)
    if initial_lora is not None:
        apply_lora(model, initial_lora)
    model.requires_grad_(False)
    parameters = {f"flux.{name}": parameter for name, parameter in model.lora_parameters().items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return parameters


class _Loop:
    """What stays the same from step to step in one process."""

    def __init__(
        self,
        accelerator: Accelerator,
        forward: nn.Module,
        recipe: TrainingRecipe,
        codec: LatentCodec,
        networks: LossNetworks,
        black_1LC: Tensor,
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
        self._codec, self._networks, self._black_1LC = codec, networks, black_1LC

    def gradients(self, read: ReadBatch[TrainingBatch]) -> tuple[float, float, float, float]:
        """Accumulate one step's gradients; return total, flow, identity and LPIPS loss over all processes."""
        recipe, accelerator = self._recipe, self._accelerator
        draws = draw_step(recipe, read.step)
        own = StepRows(read.batch, self.rows, recipe.micro_batch_size or len(self.rows))
        cuts = list(own.cuts())
        sums = torch.zeros(3, device=accelerator.device)
        for number, (batch, rows) in enumerate(cuts, start=1):
            last = number == len(cuts)
            # gradients travel between processes once a step, with the last micro batch
            with contextlib.nullcontext() if last else accelerator.no_sync(self._forward):
                losses = row_losses(
                    self._forward,
                    batch,
                    rows,
                    read.step,
                    draws,
                    recipe,
                    self._black_1LC,
                    codec=self._codec,
                    networks=self._networks,
                )
                total_B = losses.total_B(recipe)
                self._need_finite(read, rows, total_B)
                # DDP averages over processes, and each row's loss is divided by the whole batch already
                accelerator.backward(total_B.sum() * accelerator.num_processes)
            sums += _sums(losses)
        flow, identity, lpips = accelerator.reduce(sums, "sum").tolist()  # type: ignore[union-attr] -- a tensor in, a tensor out
        total = flow + recipe.identity_loss_weight * identity + recipe.lpips_weight * lpips
        return total, flow, identity, lpips

    def _need_finite(self, read: ReadBatch[TrainingBatch], rows: range, total_B: Tensor) -> None:
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


def _sums(losses: RowLosses) -> Tensor:
    parts = (losses.flow_B, losses.identity_B, losses.lpips_B)
    return torch.stack([part.detach().sum() for part in parts])


def _validate(
    model: SwapTransformer,
    codec: LatentCodec,
    validation: Validation,
    average: MovingAverage | None,
    accelerator: Accelerator,
    seed: int,
    step: int,
) -> None:
    with contextlib.nullcontext() if average is None else average.applied():
        grid = validation_grid(model, codec, validation, device=accelerator.device, seed=seed)
    if accelerator.is_main_process:
        validation.on_grid(step, grid)


def _truncate_losses(path: Path, steps: int, *, write: bool) -> list[StepLosses]:
    """Cut the log back to its first `steps` lines (a killed run is ahead of its state) and return them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
    if len(lines) < steps:
        raise ValueError(
            f"{path} has {len(lines)} lines, the saved state is at step {steps}; delete the run's folder"
        )
    if write:
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    losses = []
    for line in lines:
        numbers = json.loads(line)
        del numbers["step"]
        losses.append(StepLosses(**numbers))
    return losses
