"""Kill every kind of stage at every point that it passes, run it again, and compare with a run never killed.

`make crash` runs the whole matrix; `--short` takes one pass of every point, for `make test`. The table and
the JSON file hold one line per kind and point.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import small_orchard
from actions import ACTIONS, CHANGED, FRESH, Action
from rich.console import Console
from rich.table import Table
from verify import (
    Content,
    dagster_versions,
    differences,
    files_after_housekeeping,
    leftovers,
    read_content,
)

from resources.lake.failpoints import POINTS

NEVER = 1_000_000
COUNT_ALL = ",".join(f"{point}:{NEVER}" for point in POINTS)
"""Arms every point at a pass that never comes, so that passes are counted."""


@dataclass
class Line:
    """One kind of stage at one point: how often it was killed there and what came of it."""

    kind: str
    point: str
    passes: int
    kills: int = 0
    whole: int = 0
    recomputed: int = 0
    leftovers: int = 0
    repeated_steps: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def green(self) -> bool:
        """Whether every kill here was survived without loss."""
        return self.kills > 0 and self.whole == self.kills


class Server:
    """The fork server, and what it answers."""

    def __init__(self, photos: Path) -> None:
        self.photos = photos
        script = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def act(self, kind: str, case: Path, crash_at: str, times: int = 1) -> dict[str, Any]:
        """Do an action in a process of its own, which dies where it is told to."""
        request = {
            "kind": kind,
            "case": str(case),
            "photos": str(self.photos),
            "crash_at": crash_at,
            "times": times,
        }
        assert self.process.stdin is not None  # it is a pipe
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # it is a pipe
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}; its error is above")
        return json.loads(line)

    def close(self) -> None:
        """End the server; it holds nothing that an orderly exit would save."""
        self.process.kill()
        self.process.wait(timeout=30)


@dataclass(frozen=True)
class Twin:
    """What a kind of stage leaves behind when nobody kills it."""

    folder: Path
    content: Content
    versions: dict[str, str]
    computed: dict[str, int]
    passes: dict[str, int]
    leftovers: list[str]
    files: Counter[str]


class Matrix:
    """All cases, in one temporary folder."""

    def __init__(self, root: Path, short: bool) -> None:
        self.root, self.short = root, short
        photos = root / "sources"
        for name in (FRESH, CHANGED):
            small_orchard.write_photos(photos / name)
        self.server = Server(photos)
        self.twins: dict[str, Twin] = {}

    def run(self) -> list[Line]:
        """Make every kind's twin, then kill every kind at every point."""
        lines: list[Line] = []
        needed = self._needed()
        for action in ACTIONS:
            if action.kind not in needed:
                continue
            twin = self._twin(action)
            for point, passes in twin.passes.items():
                if passes and action.in_matrix and (point in action.short or not self.short):
                    line = Line(action.kind, point, passes)
                    for number in self._chosen(passes):
                        self._kill(action, twin, line, number)
                    lines.append(line)
        self.server.close()
        return lines

    def _needed(self) -> set[str]:
        """Kinds to kill, and those whose lakes they start from."""
        needed = {action.kind for action in ACTIONS if action.short or not self.short}
        for action in reversed(ACTIONS):
            if action.kind in needed and action.starts_from:
                needed.add(action.starts_from)
        return needed

    def _chosen(self, passes: int) -> list[int]:
        return [passes // 2 + 1] if self.short else list(range(1, passes + 1))

    def _start(self, action: Action, name: str) -> Path:
        case = self.root / "cases" / name
        if action.starts_from:
            shutil.copytree(self.twins[action.starts_from].folder, case)
        else:
            case.mkdir(parents=True)
        return case

    def _twin(self, action: Action) -> Twin:
        case = self._start(action, f"{action.kind} (never killed)")
        answer = self.server.act(action.kind, case, COUNT_ALL)
        if answer["signal"] or answer["exit"]:
            raise RuntimeError(f"{action.kind} failed without being killed: {answer}")
        tidied = case.with_name(f"{action.kind} (tidied)")
        shutil.copytree(case, tidied)
        self.twins[action.kind] = Twin(
            case,
            read_content(case),
            dagster_versions(case),
            answer["computed"],
            answer["passes"],
            leftovers(case),
            files_after_housekeeping(tidied),
        )
        return self.twins[action.kind]

    def _kill(self, action: Action, twin: Twin, line: Line, number: int) -> None:
        case = self._start(action, f"{action.kind} {line.point} {number}")
        killed = self.server.act(action.kind, case, f"{line.point}:{number}")
        line.kills += 1
        wrong = [] if killed["signal"] == signal.SIGKILL else [f"it was not killed: {killed}"]
        answer = self.server.act(action.kind, case, COUNT_ALL, times=1 if self.short else 2)
        if answer["signal"] or answer["exit"]:
            wrong.append(f"the rerun failed: {answer}")
        else:
            wrong += self._compare(action, twin, line, case, number, answer)
        line.whole += not wrong
        line.wrong += [f"pass {number}: {sentence}" for sentence in wrong]
        shutil.rmtree(case)

    def _compare(
        self, action: Action, twin: Twin, line: Line, case: Path, number: int, answer: dict[str, Any]
    ) -> list[str]:
        try:
            wrong = differences(twin.content, read_content(case))
        except (ValueError, OSError) as error:
            return [str(error)]
        if dagster_versions(case) != twin.versions:
            wrong.append("Dagster's data versions differ from the lake's")
        if any(answer["again"].values()):
            wrong.append(f"a third run computed again: {answer['again']}")
        for stage, count in answer["computed"].items():
            line.recomputed += count
            if count > twin.computed[stage]:
                wrong.append(f"{stage}: {count} rows computed, {twin.computed[stage]} are enough")
        steps = answer["passes"].get("mid_training", 0)
        if twin.passes["mid_training"]:
            wrong += self._too_many_steps(twin, line, number, steps)
        line.leftovers += len(set(leftovers(case)) - set(twin.leftovers))
        files = files_after_housekeeping(case)
        for name in sorted(files.keys() | twin.files.keys()):
            if files[name] != twin.files[name]:
                wrong.append(f"gc: {files[name]} files {name}, {twin.files[name]} without the kill")
        wrong += [f"gc: {sentence}" for sentence in differences(twin.content, read_content(case))]
        return wrong

    def _too_many_steps(self, twin: Twin, line: Line, number: int, steps: int) -> list[str]:
        """Training steps that the rerun repeats; those up to the kill are known from the point."""
        total, interval = twin.passes["mid_training"], small_orchard.CHECKPOINT_INTERVAL
        saves = [*range(interval, total, interval), total]
        done = total
        if line.point == "mid_training":
            done = number
        elif line.point == "mid_checkpoint" and number <= len(saves):
            done = saves[number - 1]
        repeated = done + steps - total
        line.repeated_steps = max(line.repeated_steps, repeated)
        return [] if repeated <= interval else [f"{repeated} training steps were repeated"]


def report(lines: list[Line], seconds: float) -> Table:
    """The lines as a table for people."""
    table = Table(title=f"SIGKILL, then a plain rerun: {sum(line.kills for line in lines)} kills", box=None)
    for name in ("stage", "point", "kills", "whole", "recomputed", "repeated steps", "left over", "verdict"):
        table.add_column(name, justify="left" if name in ("stage", "point", "verdict") else "right")
    for line in lines:
        table.add_row(
            line.kind,
            line.point,
            str(line.kills),
            str(line.whole),
            str(line.recomputed),
            str(line.repeated_steps),
            str(line.leftovers),
            "ok" if line.green else line.wrong[0],
        )
    table.caption = f"{seconds:.0f} s"
    return table


def as_json(lines: list[Line], seconds: float, short: bool) -> dict[str, Any]:
    """The lines and where they come from, as plain values."""
    return {
        "what": "SIGKILL at a named point, then a plain rerun, compared with a run never killed, before and "
        "after `orchard gc`",
        "recomputed": "rows, artifacts or events that the reruns of a line made, summed",
        "command": "make crash" if not short else "python tests/crash/matrix.py --short",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("pylance", "dagster", "torch", "pyarrow")},
        "seconds": round(seconds, 1),
        "kills": sum(line.kills for line in lines),
        "whole": sum(line.whole for line in lines),
        "kills_by_point": dict(
            sorted(Counter({p: sum(i.kills for i in lines if i.point == p) for p in POINTS}).items())
        ),
        "lines": [{**asdict(line), "green": line.green} for line in lines],
    }


def main() -> int:
    """Run the matrix; 0 when every kill was survived whole."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--short", action="store_true", help="one pass of every point")
    options.add_argument("--json", type=Path, help="where to write the result")
    chosen = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orchard-crash-") as folder:
        lines = Matrix(Path(folder), chosen.short).run()
    seconds = time.monotonic() - started
    Console(width=150, soft_wrap=True).print(report(lines, seconds))
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(lines, seconds, chosen.short), indent=1, ensure_ascii=False)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    return 0 if lines and all(line.green for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
