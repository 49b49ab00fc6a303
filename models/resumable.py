"""What the trainings of our small networks share: one state file that a killed run goes on from, and a voice.

Runs of swap models and denoisers, of several processes, keep theirs as `models.swap.training_state` says.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel


class Stateful(Protocol):
    """A network or an optimiser: something with a state to save."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs of it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Take such a state over."""
        ...


def save_parts(path: Path, recipe: BaseModel, step: int, parts: Mapping[str, Stateful]) -> None:
    """Save the parts of a training after `step` steps under their names, in one file, atomically."""
    unfinished = path.with_suffix(".unfinished")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"recipe": recipe.model_dump_json(), "step": step, **states}, unfinished)
    unfinished.replace(path)


def resume_parts(path: Path, recipe: BaseModel, parts: Mapping[str, Stateful]) -> int:
    """Restore the parts and return how many steps are done: 0 where there is no file.

    Raises ValueError where the file is of another recipe.
    """
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != recipe.model_dump_json():
        raise ValueError(f"{path} belongs to another recipe: {state['recipe']}; take another --work folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    log_line(f"goes on after step {state['step']} of {path}")
    return state["step"]


def log_line(line: str) -> None:
    """Print a line under the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
