"""The processes of one training: how many there are, which is this one, and what they tell each other.

Without `torch.distributed` there is one. `accelerate launch` and `torchrun` start several.
"""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Whether this process is the one that writes: states, curves, checkpoints, and the lake."""
    return not several() or dist.get_rank() == 0


def from_main(value: T) -> T:
    """Return what the main process gives; the others' value is not looked at. All must call it."""
    if not several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def agreed(value: int) -> bool:
    """Whether all processes give the same number. All must call it."""
    if not several():
        return True
    box: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return len(set(box)) == 1


def wait_for_all() -> None:
    """Return when every process has come here."""
    agreed(0)
