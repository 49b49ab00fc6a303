"""The training loop of teacher, student and base: deterministic, resumable, one for every size of model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from models.swap.codec import LatentCodec
from models.swap.data import TrainingBatch, TrainingData
from models.swap.lora_files import apply_lora, lora_state
from models.swap.losses import LossNetworks
from models.swap.optimisers import MovingAverage
from models.swap.reading import ONE_THREAD, ReadBatch, Readers, read_batches
from models.swap.step import BatchVelocity, RowLosses, StepRows, draw_step, row_losses
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_run import TrainingRun, accelerator_on, need_finite, own_rows
from models.swap.transformer import SwapTransformer
from models.swap.validation import Validation, validation_grid


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
    readers: Readers = ONE_THREAD,
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
        read_ahead: batches that each reader has read before their time; decides nothing but waiting.
        readers: threads or processes that read them.
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
    # the branch none does: DDP has to look which are in use.
    accelerator = accelerator_on(device, find_unused_parameters=True)
    identity = {"recipe": recipe.model_dump(mode="json"), "config": model.config.model_dump(mode="json")}
    identity |= dict(provenance or {})
    run = TrainingRun(
        accelerator,
        BatchVelocity(model).train(),
        parameters,
        recipe,
        output_dir,
        identity,
        StepLosses,
        checkpoint_interval=recipe.checkpoint_interval,
        on_half_saved=on_half_saved,
    )
    if on_resume is not None:
        on_resume(run.losses)
    black_1LC = black_latents_LC.to(accelerator.device)[None]
    loop = _Loop(accelerator, run.forward, recipe, codec, networks, black_1LC)
    with run.logging():
        for read in read_batches(data, recipe, loop.rows, run.steps, ahead=read_ahead, readers=readers):
            step, numbers = read.step, run.step(read, loop.gradients)
            interval = recipe.validation_interval
            if validation is not None and interval is not None and step % interval == 0:
                _validate(model, codec, validation, run.average, accelerator, recipe.seed, step)
            run.save_if_due(step)
            if on_step is not None:
                on_step(step, numbers)
    model.eval()
    run.finish()
    if recipe.trainable == "lora":
        return TrainingResult(lora_state(model), run.losses)
    weights = {name: value.detach().cpu().clone() for name, value in parameters.items()}
    return TrainingResult(weights, run.losses)


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
        self.rows = own_rows(accelerator, recipe.batch_size)
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
                need_finite(read, self.rows, rows, total_B)
                # DDP averages over processes, and each row's loss is divided by the whole batch already
                accelerator.backward(total_B.sum() * accelerator.num_processes)
            sums += _sums(losses)
        flow, identity, lpips = accelerator.reduce(sums, "sum").tolist()  # type: ignore[union-attr] -- a tensor in, a tensor out
        total = flow + recipe.identity_loss_weight * identity + recipe.lpips_weight * lpips
        return total, flow, identity, lpips


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
