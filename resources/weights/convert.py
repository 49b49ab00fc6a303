"""Legacy files made safe: a pickle is read once, in a process with little to spend, and becomes safetensors.

A pickle can run code when it is read. The child process (`convert_child.py`) reads state dicts with torch's
restricted unpickler and numpy dicts with one of our own; it has limits of memory, time and file size, an
environment without secrets, and no way to write anywhere but to one new file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from resources.weights.entries import Conversion
from resources.weights.errors import WeightError

MEMORY_BYTES = 12 << 30
"""Address space of the child: torch alone maps several GB of it."""

CPU_SECONDS = 600
FILE_BYTES = 4 << 30
WALL_SECONDS = 900

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "OMP_NUM_THREADS")
"""Environment variables that the child gets; tokens are not among them."""


def convert(
    role: str, source: Path, how: Conversion, folder: Path, *, report: Callable[[str], None] = print
) -> Path:
    """Convert a legacy file; returns the safetensors file in `folder`, named after its source.

    Raises:
        WeightError: the file holds a whole module or anything but tensors, is damaged, or takes more memory,
            time or room than the child may have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}.safetensors"
    with tempfile.TemporaryDirectory(dir=folder, prefix="converting-") as scratch:
        made = Path(scratch, "out.safetensors")
        limits = json.dumps({"memory": MEMORY_BYTES, "cpu": CPU_SECONDS, "file": FILE_BYTES})
        command = [sys.executable, "-m", "resources.weights.convert_child", limits, str(source), str(made)]
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            done = subprocess.run(
                [*command, how.model_dump_json()],
                env={**environment, "HOME": scratch, "TMPDIR": scratch},
                capture_output=True,
                text=True,
                timeout=WALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(role, source, f"it took longer than {WALL_SECONDS} s") from error
        if done.returncode != 0:
            told = done.stdout.strip().splitlines()
            what = told[-1] if told else f"the converter ended with {done.returncode}; {_last(done.stderr)}"
            raise _failed(role, source, what, how.way_out)
        made.replace(target)
    report(f"{role}: {source.name} was converted to {target}")
    return target


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _failed(role: str, source: Path, problem: str, way_out: str = "") -> WeightError:
    remedy = way_out or "get the file anew from its origin, or a safetensors version of it"
    return WeightError(role, f"{source} was not converted: {problem}", remedy)
