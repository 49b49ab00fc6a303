"""Names inside a training's folder. What is kept stays after the checkpoint is registered, the rest goes."""

from __future__ import annotations

LOSSES_FILE = "losses.jsonl"
"""One line per step; everything else for people is drawn from it."""

EVENTS_FOLDER = "tensorboard"
GRIDS_FOLDER = "validation"
STATES_FOLDER = "resume"

KEPT = frozenset({LOSSES_FILE, EVENTS_FOLDER, GRIDS_FOLDER})


def grid_name(step: int) -> str:
    """File of the validation grid of a step; names sort by step."""
    return f"step_{step:08d}.png"
