"""How the benches measure, and what every result file says of where and when it was measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Repetition = Callable[[], Mapping[str, float]]
"""Measures us and the alternative once, in turn: ratios, ours over theirs, by what they are of."""


def measured(work: Callable[[str], dict[str, Any]], uri: str) -> dict[str, Any]:
    """Seconds and peak memory of one piece of work in a fresh process; its own imports are not counted in."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, uri))


def _measure(work: Callable[[str], dict[str, Any]], uri: str) -> dict[str, Any]:
    wall, cpu = time.monotonic(), time.process_time()
    found = work(uri)
    return {
        "seconds": round(time.monotonic() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load_average": round(os.getloadavg()[0], 1),
        "found": found,
    }


def write_result(path: Path, command: list[str], packages: tuple[str, ...], facts: dict[str, Any]) -> None:
    """Write and print a result: the command, date, machine and versions, and then the facts."""
    result = {
        "command": " ".join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        **facts,
    }
    text = json.dumps(result, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
