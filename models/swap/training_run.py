"""What every training by steps has in common: its device, its rows, its resumable folder and its losses.

`models.swap.training` and `models.diffface.training` say what is learned; how a step is taken, shared between
processes, logged, saved and resumed is said here once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from models.swap.optimisers import (
    MovingAverage,
    build_optimiser,
    effective_rate,
    learning_rate,
    set_learning_rate,
)
from models.swap.processes import agreed
from models.swap.reading import ReadBatch
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_state import clear_unfinished_states, load_latest_state, save_state

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOSSES_NAME = "losses.jsonl"
"""A line per step in a run's folder."""

Losses = TypeVar("Losses", bound="DataclassInstance")
"""What is known of one step: the sums over all processes, then `gradient_norm` before clipping, then
`learning_rate`, what the step moved at."""

Batch = TypeVar("Batch")


def accelerator_on(device: str, *, find_unused_parameters: bool = False) -> Accelerator:
    """Return accelerate's view of this process: "cpu" keeps to the CPU, anything else takes its choice.

    Raises RuntimeError where a GPU was asked for and there is none.
    """
    # buffers are constants, equal from the start
    handler = DistributedDataParallelKwargs(
        find_unused_parameters=find_unused_parameters, broadcast_buffers=False
    )
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[handler])
    if device != "cpu" and accelerator.device.type == "cpu":
        raise RuntimeError(
            f"device {device} was asked for, and accelerate finds none; ask for cpu to train there"
        )
    return accelerator


def own_rows(accelerator: Accelerator, batch_size: int) -> range:
    """Return this process's rows of every batch. Raises ValueError where it cannot be shared equally."""
    processes = accelerator.num_processes
    if batch_size % processes:
        raise ValueError(
            f"a batch of {batch_size} rows cannot be shared equally by {processes} processes; "
            "start a number of processes that divides it"
        )
    share = batch_size // processes
    return range(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def need_finite(read: ReadBatch[Any], own: range, rows: range, total_B: Tensor) -> None:
    """Raise FloatingPointError, naming step and rows, where a loss is not finite.

    Args:
        read: what was drawn for this process's rows.
        own: this process's rows of the step's batch.
        rows: those of them that the losses belong to.
        total_B: one loss per row.
    """
    finite = torch.isfinite(total_B.detach()).tolist()
    if all(finite):
        return
    bad = [row for row, good in zip(rows, finite, strict=True) if not good]
    drawn = [read.choices_BK[row - own.start].tolist() for row in bad]
    value = float(total_B.detach().sum())
    hint = "lower the learning rate" if math.isinf(value) else "lower it, or look at these rows"
    raise FloatingPointError(
        f"loss of step {read.step} is {value} in rows {bad} of its batch (drawn as {drawn}); {hint}"
    )


class TrainingRun(Generic[Losses]):
    """One run in its folder: optimiser, moving average, states and losses, resumed where they were left.

    Args:
        accelerator: see `accelerator_on`.
        module: computes what losses are made of; `forward` is the same, ready for several processes.
        parameters: what is trained, by name.
        recipe: optimiser, rates, moving average and number of steps.
        output_dir: the run's own folder; made where it is missing.
        identity: JSON that says which run this is; a resume under any other is refused.
        losses_type: what a line of the log holds.
        checkpoint_interval: steps between states.
        on_half_saved: called with the step whenever a state is half written, so that tests can kill there.

    Raises:
        ResumeMismatch: `output_dir` belongs to another run.
        ValueError: the log is shorter than the saved state.
        RuntimeError: processes see different folders.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        recipe: TrainingRecipe,
        output_dir: Path,
        identity: Mapping[str, Any],
        losses_type: Callable[..., Losses],
        *,
        checkpoint_interval: int,
        on_half_saved: Callable[[int], None] | None = None,
    ) -> None:
        self._accelerator, self._parameters, self._recipe = accelerator, parameters, recipe
        self._output_dir, self._identity, self._losses_type = output_dir, identity, losses_type
        self._checkpoint_interval, self._on_half_saved = checkpoint_interval, on_half_saved
        self._log: TextIO | None = None
        self._optimiser = build_optimiser(recipe, parameters)
        self.forward, self._wrapped = accelerator.prepare(module, self._optimiser)
        self.average = None if recipe.ema_decay is None else MovingAverage(parameters, recipe.ema_decay)
        with accelerator.main_process_first():
            output_dir.mkdir(parents=True, exist_ok=True)
            if accelerator.is_main_process:
                clear_unfinished_states(output_dir)
            done = load_latest_state(output_dir, identity, parameters, self._optimiser, self.average)
            self.losses = self._first_losses(done)
        if not agreed(done):
            raise RuntimeError(
                f"processes found training states of different steps under {output_dir}; "
                "give all machines one shared folder"
            )
        self.steps = range(done + 1, recipe.steps + 1)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Open the log for as long as steps are taken; only the main process writes it, and states."""
        if not self._accelerator.is_main_process:
            yield
            return
        with (self._output_dir / LOSSES_NAME).open("a", encoding="utf-8") as self._log:
            yield

    def step(
        self, read: ReadBatch[Batch], gradients: Callable[[ReadBatch[Batch]], tuple[float, ...]]
    ) -> Losses:
        """Take one step: `gradients` accumulates them and returns the losses' sums over all processes."""
        set_learning_rate(self._optimiser, learning_rate(self._recipe, read.step))
        self._wrapped.zero_grad(set_to_none=True)
        sums = gradients(read)
        clip = self._recipe.gradient_clip
        norm = self._accelerator.clip_grad_norm_(list(self._parameters.values()), clip)
        self._wrapped.step()
        if self.average is not None:
            self.average.update(read.step)
        losses = self._losses_type(*sums, float(norm or 0.0), effective_rate(self._optimiser))
        self.losses.append(losses)
        if self._log is not None:
            self._log.write(json.dumps({"step": read.step, **asdict(losses)}) + "\n")
        return losses

    def save_if_due(self, step: int) -> None:
        """Save the state after a step if its turn has come, and after the last one."""
        if self._log is None or (step % self._checkpoint_interval and step != self._recipe.steps):
            return
        self._log.flush()
        save_state(
            self._output_dir,
            step,
            self._identity,
            self._parameters,
            self._optimiser,
            self.average,
            self._on_half_saved,
        )

    def finish(self) -> None:
        """Put the moving average, where there is one, in the place of the weights."""
        if self.average is not None:
            self.average.copy_to_parameters()

    def _first_losses(self, steps: int) -> list[Losses]:
        """Cut the log back to its first `steps` lines (a killed run is ahead of its state); return them."""
        path = self._output_dir / LOSSES_NAME
        lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
        if len(lines) < steps:
            raise ValueError(
                f"{path} has {len(lines)} lines, the saved state is at step {steps}; delete the run's folder"
            )
        if self._accelerator.is_main_process:
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        return [
            self._losses_type(**{name: value for name, value in row.items() if name != "step"})
            for row in rows
        ]
