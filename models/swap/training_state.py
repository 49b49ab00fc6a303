"""Resumable state of a training run: weights, optimiser and step, one folder per saved step.

Data order, noise and dropout of step k are functions of (seed, k) and of nothing else, so step and seed are
the whole state of all random generators, and a resumed run repeats an unbroken one bit for bit on the CPU.
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

STATES_KEPT = 2


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
    on_half_written: Callable[[int], None] | None = None,
) -> None:
    """Save the state after `step` steps atomically, and drop states older than the last two.

    `identity` is JSON that says which run this is; `load_latest_state` refuses any other.
    `on_half_written` is called with the step between the weights' file and the optimiser's.
    """
    root = states_folder(output_dir)
    moments = {
        f"{name}/{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    with atomic_folder(root / f"step_{step:08d}") as folder:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in parameters.items()},
            folder / "weights",
        )
        if on_half_written is not None:
            on_half_written(step)
        save_file(moments, folder / "optimiser")
        text = json.dumps({"step": step, "identity": dict(identity)}, sort_keys=True)
        (folder / "state.json").write_text(text, encoding="utf-8")
    for old in sorted(root.glob("step_*"))[:-STATES_KEPT]:
        shutil.rmtree(old)


def load_latest_state(
    output_dir: Path,
    identity: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Restore the newest saved state and return its step, or return 0 where there is none.

    Raises ResumeMismatch if the state is another run's; the message names what differs.
    """
    root = states_folder(output_dir)
    remove_unfinished(root)
    folders = sorted(root.glob("step_*"))
    if not folders:
        return 0
    folder = folders[-1]
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
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
    weights = load_file(folder / "weights")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _restore_moments(load_file(folder / "optimiser"), parameters, optimiser)
    return int(state["step"])


def _restore_moments(
    moments: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    for name, parameter in parameters.items():
        prefix = f"{name}/"
        found = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
        if found:
            optimiser.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
