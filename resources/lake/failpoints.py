"""Named points at which a process can be made to die, so that tests can prove what a kill costs: nothing.

`ORCHARD_CRASH_AT="after_data_file:2"` makes the process send itself SIGKILL when it passes that point for the
second time; several points are separated by commas, and a point without a number means its first pass.
A point that is not armed costs one dictionary look-up. Never set the variable on a lake you work with.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "ORCHARD_CRASH_AT"

POINTS: Mapping[str, str] = {
    "mid_ingest": "between two writes of an ingest: pieces appended, shards replaced, rows pruned",
    "before_write": "rows are computed, or an artifact is built; nothing of it is in the lake yet",
    "after_data_file": "files of a column group or of exchanged pairs are written, no version names them yet",
    "after_commit": "the column group or the exchanged pairs are committed, or the artifact is registered",
    "before_event": "the lake holds the result, Dagster has not been told",
    "after_event": "Dagster has stored the event; its run has not ended, or others are still to be told",
    "mid_training": "after a training step",
    "mid_checkpoint": "a training state is half written, or around writing the finished adapters",
    "mid_clip": "a frame of a clip is swapped and kept; the clip is not finished",
    "mid_release": "between two writes of a release: triplet pairs, swap pairs, the list of rows, the tag",
}
"""Every point and where it stands."""


@dataclass
class _Armed:
    dies_at: int
    passes: int = 0


_armed: dict[str, _Armed] = {}


def crash_point(name: str) -> None:
    """Die here by SIGKILL if this point is armed and it is its turn; do nothing otherwise."""
    if name in _armed:
        _pass(_armed[name])


def arm(text: str) -> None:
    """Arm exactly the points that `text` names (`point:pass,point:pass`); an empty text disarms all.

    Raises ValueError for a point that does not exist and for a pass that is not a positive number.
    """
    armed: dict[str, _Armed] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = item.partition(":")
        if name not in POINTS:
            raise ValueError(f"{VARIABLE}: no point {name!r}; there are {', '.join(sorted(POINTS))}")
        if number and not (number.isdecimal() and int(number) > 0):
            raise ValueError(f"{VARIABLE}: {item!r} should be a point and which pass of it, e.g. {name}:2")
        armed[name] = _Armed(int(number or 1))
    _armed.clear()
    _armed.update(armed)


def passes() -> dict[str, int]:
    """How often each armed point was passed so far."""
    return {name: point.passes for name, point in _armed.items()}


def _pass(point: _Armed) -> None:
    point.passes += 1
    if point.passes == point.dies_at:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE, ""))
