"""Runs whose process is gone, though Dagster has them running: killed, or their machine went down.

The code server notices the death of its own runs while it lives itself. A run that it did not outlive, and
one of `dg launch`, would stay "started" for ever, keep its slot of the pool, and hold up its shard's refresh.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher

_PROCESS = re.compile(r"process(?: for run)? \(pid: (\d+)\)")


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process on this machine is gone; returns their ids."""
    if not isinstance(instance.run_launcher, DefaultRunLauncher):
        return []  # other launchers run elsewhere and are asked by Dagster's own monitoring
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        pid = _newest_process(instance, run.run_id)
        if pid is None or _is_alive(pid):
            continue
        # a run writes how it ended before its process ends, so this look comes after that one
        again = instance.get_run_by_id(run.run_id)
        if again is not None and again.status is dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(again, f"the process of this run (pid {pid}) is gone")
            ended.append(run.run_id)
    return ended


def _newest_process(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that a run last said it was in."""
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    found = [match for entry in logs if (match := _PROCESS.search(entry.message))]
    return int(found[-1][1]) if found else None


def _is_alive(pid: int) -> bool:
    """Whether a process of this number is there, and, where the system tells, runs Python."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path(f"/proc/{pid}/cmdline")
    try:
        # numbers are given out again; a zombie has no command line left
        return b"python" in command.read_bytes()
    except FileNotFoundError:
        return not command.parent.parent.joinpath("self").exists()  # gone meanwhile, or no /proc here
