"""The training loop of teacher, student and base: deterministic, resumable, one for every size of model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from models.swap.codec import LatentCodec
from models.swap.data import TrainingBatch, TrainingData
from models.swap.lora_files import apply_lora, lora_state
from models.swap.losses import (
    FaceEncoder,
    clean_estimate,
    flow_matching_loss,
    flow_sample,
    identity_loss,
    logit_normal_timesteps,
)
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_state import load_latest_state, save_state
from models.swap.transformer import SwapTransformer

LOSSES_NAME = "losses.jsonl"


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: their weighted sum, and its parts; `gradient_norm` is before clipping."""

    total: float
    flow: float
    identity: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingResult:
    """The trained adapters in file layout (all weights, if everything was trained), and all losses."""

    lora_state: dict[str, Tensor]
    losses: list[StepLosses]


@dataclass(frozen=True)
class StepDraws:
    """All that is random in a step besides its batch: noise levels, noise, what is kept (True) or dropped."""

    timestep_B: Tensor
    noise_BLC: Tensor
    prompted_B: Tensor
    conditioned_B: Tensor
    identified_B: Tensor
    with_branch: bool


class BatchVelocity(nn.Module):
    """The forward pass of a step, as one module, so that data-parallel wrappers see all trainable weights."""

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
        """Return predicted velocities (B, L, C)."""
        text = self.model.prompts(prompted_B)
        identity = self.model.identity_encoder(identity_BD)
        return self.model(noisy_BLC, timestep_B, text, condition_BLC=condition_BLC, identity_BTD=identity)


def step_seed(seed: int, step: int, process: int, purpose: int) -> np.random.SeedSequence:
    """Return the seeds of one purpose (0: data, 1: noise and dropout) of one step on one process."""
    return np.random.SeedSequence([seed, step, process, purpose])


def draw_step(recipe: TrainingRecipe, batch: TrainingBatch, step: int, process: int) -> StepDraws:
    """Draw the noise and the dropouts of a step from (seed, step, process) alone, on the CPU."""
    state = step_seed(recipe.seed, step, process, 1).generate_state(1, np.uint64)[0]
    generator = torch.Generator("cpu").manual_seed(int(state) & (2**63 - 1))
    rows = len(batch.target_latents_BLC)
    return StepDraws(
        timestep_B=logit_normal_timesteps(rows, generator),
        noise_BLC=torch.randn(batch.target_latents_BLC.shape, generator=generator),
        prompted_B=torch.rand(rows, generator=generator) >= recipe.text_dropout,
        conditioned_B=torch.rand(rows, generator=generator) >= recipe.condition_dropout,
        identified_B=torch.rand(rows, generator=generator) >= recipe.identity_dropout,
        with_branch=bool(torch.rand((), generator=generator) >= recipe.branch_removal),
    )


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Return the learning rate of the 1-based step: linear warm-up, then constant or half a cosine."""
    rate = recipe.learning_rate
    if step <= recipe.warmup_steps:
        return rate * step / recipe.warmup_steps
    if recipe.schedule == "constant":
        return rate
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    model: SwapTransformer,
    data: TrainingData,
    recipe: TrainingRecipe,
    output_dir: Path,
    *,
    codec: LatentCodec,
    black_latents_LC: Tensor,
    encode_face: FaceEncoder | None = None,
    initial_lora: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, str] | None = None,
    device: str = "cpu",
    on_step: Callable[[int, StepLosses], None] | None = None,
    on_half_saved: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Train adapters (or everything) in place, resuming whatever `output_dir` holds of this very run.

    Data of step k come from `data.sample(generator of (seed, k))`, noise and dropout from (seed, k) too.
    Every `checkpoint_interval` steps, and at the end, weights, optimiser and step are saved atomically;
    `losses.jsonl` gets a line per step. A killed run started again gives bit-equal weights on the CPU.

    Args:
        model: gets adapters (seeded by the recipe) unless it has them.
        data: where batches come from; it must depend on the given generator alone.
        recipe: how to train.
        output_dir: the run's own folder.
        codec: decodes estimates for the identity loss.
        black_latents_LC: latents of a black image, what condition dropout shows.
        encode_face: differentiable embedder of the identity loss; without it the loss is off.
        initial_lora: adapters to start from (the teacher's, for a student).
        provenance: digests of base and data; a resume with other ones is refused.
        device: "cpu" keeps to the CPU even where there is a GPU; anything else takes accelerate's choice.
        on_step: called with the 1-based step and its losses.
        on_half_saved: called with the step whenever a state is half written, so that tests can kill there.

    Raises:
        FloatingPointError: a loss is not finite; names the step.
        ResumeMismatch: `output_dir` belongs to another run.
        RuntimeError: a GPU was asked for and there is none.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    parameters = _trainable(model, recipe, initial_lora)
    model.gradient_checkpointing = recipe.gradient_checkpointing
    # Adapters that only feed the last block's discarded condition output get no gradient: DDP has to be told.
    accelerator = Accelerator(
        cpu=device == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    if device != "cpu" and accelerator.device.type == "cpu":
        raise RuntimeError(
            f"device {device} was asked for, and accelerate finds none; ask for cpu to train there"
        )
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    forward = BatchVelocity(model).train()
    identity = {"recipe": recipe.model_dump(mode="json"), "config": model.config.model_dump(mode="json")}
    identity |= dict(provenance or {})
    forward, wrapped = accelerator.prepare(forward, optimiser)
    with accelerator.main_process_first():  # it also clears what a killed run left behind
        done = load_latest_state(output_dir, identity, parameters, optimiser)
        losses = _truncate_losses(output_dir / LOSSES_NAME, done)
    black_1LC = black_latents_LC.to(accelerator.device)[None]
    process = accelerator.process_index
    with (output_dir / LOSSES_NAME).open("a", encoding="utf-8") as log:
        for step in range(done + 1, recipe.steps + 1):
            rng = np.random.default_rng(step_seed(recipe.seed, step, process, 0))
            batch = data.sample(rng, recipe.batch_size)
            draws = draw_step(recipe, batch, step, process)
            rate = learning_rate(recipe, step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            total, flow, identity_part = _step_loss(
                forward, batch, draws, recipe, black_1LC, codec=codec, encode_face=encode_face
            )
            if not math.isfinite(float(total.detach())):
                raise FloatingPointError(
                    f"loss of step {step} is {float(total.detach())}; lower the learning rate"
                )
            wrapped.zero_grad(set_to_none=True)
            accelerator.backward(total)
            norm = accelerator.clip_grad_norm_(list(parameters.values()), recipe.gradient_clip)
            wrapped.step()
            numbers = StepLosses(
                float(total.detach()),
                float(flow.detach()),
                float(identity_part.detach()),
                float(norm or 0.0),
                rate,
            )
            losses.append(numbers)
            if accelerator.is_main_process:
                log.write(json.dumps({"step": step, **asdict(numbers)}) + "\n")
                if step % recipe.checkpoint_interval == 0 or step == recipe.steps:
                    log.flush()
                    save_state(output_dir, step, identity, parameters, optimiser, on_half_saved)
            if on_step is not None:
                on_step(step, numbers)
    model.eval()
    if recipe.trainable == "lora":
        return TrainingResult(lora_state(model), losses)
    return TrainingResult({name: value.detach().cpu().clone() for name, value in parameters.items()}, losses)


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


def _step_loss(
    forward: nn.Module,
    batch: TrainingBatch,
    draws: StepDraws,
    recipe: TrainingRecipe,
    black_1LC: Tensor,
    *,
    codec: LatentCodec,
    encode_face: FaceEncoder | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return total, flow and identity loss of one batch."""
    device = black_1LC.device
    timestep = draws.timestep_B.to(device)
    sample = flow_sample(batch.target_latents_BLC.to(device), draws.noise_BLC.to(device), timestep)
    identified = draws.identified_B.to(device)
    embedding = batch.identity_BD.to(device)
    condition = None
    if draws.with_branch:
        conditioned = draws.conditioned_B.to(device)[:, None, None]
        condition = torch.where(conditioned, batch.condition_latents_BLC.to(device), black_1LC)
    predicted = forward(
        sample.noisy_BLC, timestep, draws.prompted_B.to(device), condition, embedding * identified[:, None]
    )
    flow = flow_matching_loss(predicted, sample.velocity_BLC)
    if encode_face is None or recipe.identity_loss_weight == 0:
        return flow, flow, flow.new_zeros(())
    likeness = identity_loss(
        clean_estimate(sample.noisy_BLC, predicted, timestep),
        timestep,
        embedding,
        identified,
        codec=codec,
        encode_face=encode_face,
        threshold=recipe.identity_loss_threshold,
    )
    return flow + recipe.identity_loss_weight * likeness, flow, likeness


def _truncate_losses(path: Path, steps: int) -> list[StepLosses]:
    """Cut the log back to its first `steps` lines (a killed run is ahead of its state) and return them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
    if len(lines) < steps:
        raise ValueError(
            f"{path} has {len(lines)} lines, the saved state is at step {steps}; delete the run's folder"
        )
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    losses = []
    for line in lines:
        numbers = json.loads(line)
        del numbers["step"]
        losses.append(StepLosses(**numbers))
    return losses
