"""Resumable state of a training run: weights, optimiser, moving average and step, one folder per saved step.

Data, noise and dropouts of step k are functions of (seed, k) and of nothing else, and nothing draws from a
global generator. So step and seed are the position in the data and the whole state of all random numbers, and
a resumed run repeats an unbroken one bit for bit on the CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.swap.checkpoint import atomic_folder, remove_unfinished
from models.swap.optimisers import MovingAverage

STATES_KEPT = 2
WEIGHTS, OPTIMISER, AVERAGE, STATE = "weights", "optimiser", "average", "state.json"
"""Files of one saved state: three of tensors, and what is no tensor."""


class ResumeMismatch(ValueError):
    """Saved training state belongs to another run: another recipe, base, or data."""


def states_folder(output_dir: Path) -> Path:
    """Return where a run keeps its resumable states."""
    return output_dir / "resume"


def save_state(
    output_dir: Path,
    step: int,
    identity: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    average: MovingAverage | None = None,
    on_half_written: Callable[[int], None] | None = None,
) -> None:
    """Save the state after `step` steps atomically, and drop states older than the last two.

    `identity` is JSON that says which run this is; `load_latest_state` refuses any other.
    `on_half_written` is called with the step between the weights' file and the optimiser's.
    """
    root = states_folder(output_dir)
    tensors, numbers = _optimiser_parts(parameters, optimiser)
    with atomic_folder(root / f"step_{step:08d}") as folder:
        save_file(_on_cpu(parameters), folder / WEIGHTS)
        if on_half_written is not None:
            on_half_written(step)
        save_file(tensors, folder / OPTIMISER)
        if average is not None:
            save_file(_on_cpu(average.values), folder / AVERAGE)
        state = {"step": step, "identity": dict(identity), "optimiser": numbers}
        (folder / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    for old in sorted(root.glob("step_*"))[:-STATES_KEPT]:
        shutil.rmtree(old)


def clear_unfinished_states(output_dir: Path) -> None:
    """Remove what a killed run left half-written; only the process that writes states may call this."""
    remove_unfinished(states_folder(output_dir))


def load_latest_state(
    output_dir: Path,
    identity: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    average: MovingAverage | None = None,
) -> int:
    """Restore the newest saved state and return its step, or return 0 where there is none.

    Raises ResumeMismatch if the state is another run's; the message names what differs.
    """
    folders = sorted(states_folder(output_dir).glob("step_*"))
    if not folders:
        return 0
    folder = folders[-1]
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(dict(identity)))
    if state["identity"] != wanted:
        differing = sorted(
            key
            for key in wanted.keys() | state["identity"].keys()
            if wanted.get(key) != state["identity"].get(key)
        )
        raise ResumeMismatch(
            f"{folder} was saved by a run that differs in {', '.join(differing)}; "
            "use another folder or delete it"
        )
    weights = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _restore_optimiser(load_file(folder / OPTIMISER), state["optimiser"], parameters, optimiser)
    if average is not None:
        average.load(load_file(folder / AVERAGE))
    return int(state["step"])


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _optimiser_parts(
    parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's tensors by parameter name, and its plain values: those of parameters and of groups."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
            else:
                values.setdefault(name, {})[key] = value
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in optimiser.param_groups
    ]
    return tensors, {"values": values, "groups": groups}


def _restore_optimiser(
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Put it back through the optimiser's own `load_state_dict`, which knows what stays on the CPU."""
    saved: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers["values"].items()}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        saved.setdefault(parameter, {})[key] = value
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(item)] for group in optimiser.param_groups for item in group["params"]]
    current = optimiser.state_dict()
    groups = [{**group, **old} for group, old in zip(current["param_groups"], numbers["groups"], strict=True)]
    state = {index: saved[name] for index, name in enumerate(order) if name in saved}
    optimiser.load_state_dict({"state": state, "param_groups": groups})
