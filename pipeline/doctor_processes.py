"""Checks that must not take the doctor with them: probes in processes of their own, each of them reported.

A native library that is missing a part ends its process instead of raising; then the probe that did so is
blamed, and the others go on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.doctor_probes import MARKER

PROBE_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, such as `weights centerface`.
        ok: whether a run can rely on it. Matters of information are always ok.
        detail: what was seen.
        remedy: what to do; empty where nothing needs doing.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One probe for the other process: a name in `doctor_probes.PROBES`, its argument, how to mend it."""

    name: str
    probe: str
    argument: str
    remedy: str


def run_probes(jobs: Sequence[Job], timeout: float = PROBE_TIMEOUT_SECONDS) -> list[Check]:
    """Run jobs in other processes, one after another, and report each.

    A job that ends its process or exceeds the time is blamed, and the jobs after it go on in a new process.
    """
    checks: list[Check] = []
    while len(checks) < len(jobs):
        checks += _run_until_it_stops(jobs[len(checks) :], timeout)
    return checks


def _run_until_it_stops(jobs: Sequence[Job], timeout: float) -> list[Check]:
    """Checks of the first jobs: all of them, or up to and with the one that stopped the process."""
    order = json.dumps([(job.probe, job.argument) for job in jobs])
    # Exactly this process's import path: -P keeps the working directory from adding to it.
    command = [sys.executable, "-P", "-m", "pipeline.doctor_probes"]
    import_path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = os.environ | {"GLOG_minloglevel": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": import_path}
    try:
        done = subprocess.run(
            command,
            input=order,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
        output, errors, stopped = done.stdout, done.stderr, f"ended its process (exit code {done.returncode})"
    except subprocess.TimeoutExpired as late:
        output, errors = _text(late.stdout), _text(late.stderr)
        stopped = f"did not finish within {timeout:g} s"
    checks: list[Check] = []
    for job, message in zip(jobs, _messages(output), strict=False):
        ok = bool(message["ok"])
        checks.append(Check(job.name, ok, str(message["detail"]), "" if ok else job.remedy))
    if len(checks) < len(jobs):
        job = jobs[len(checks)]
        last_words = " ".join(errors.strip().splitlines()[-3:])
        checks.append(Check(job.name, False, f"{stopped}: {last_words or 'without a word'}", job.remedy))
    return checks


def _messages(output: str) -> Iterator[dict[str, object]]:
    for line in output.splitlines():
        # A library may have printed without ending its line.
        _, marker, message = line.partition(MARKER)
        if marker:
            yield json.loads(message)


def _text(captured: bytes | str | None) -> str:
    return captured.decode(errors="replace") if isinstance(captured, bytes) else captured or ""
