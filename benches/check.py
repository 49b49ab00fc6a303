"""Whether anything got slower or larger beside what a user would do instead: short forms of the benches.

Run `python -m benches.check`; it exits 1 and names bench and ratio where one is worse than in
benches/results/quick.json. `--record` writes that file anew. Seconds differ between machines and hours, so
only ratios are compared: ours over theirs, measured in turn in the same process. What is allowed comes from
the record itself: its median, and on top of it twice the distance of its quartiles (which one odd repetition
does not move), but a share of the median at least. A ratio that is worse is measured a second time before it
counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benches.measuring import Repetition, write_result
from resources.compute.device import limit_threads

BENCHES = ("annotate", "storage", "planning", "feeding", "engine", "train_step", "triplets")
"""Modules of `benches` whose `quick(folder)` prepares a short form and returns its `Repetition`.

One that holds more than memory and files of the folder has a method `close`.
"""

RESULT = Path(__file__).parent / "results" / "quick.json"
REPETITIONS = 7
SPREADS = 2
"""Tolerance in distances of the record's quartiles."""

LEAST = {"seconds": 0.25, "bytes": 0.05}
"""Least tolerance, as a share of the recorded median, by a ratio's first word.

Another machine moves a ratio of seconds by about as much; bytes are nearly the same on all.
"""

PACKAGES = ("pylance", "pyarrow", "numpy", "torch", "diffusers", "mediapipe", "opencv-contrib-python", "ray")


@dataclass(frozen=True)
class Recorded:
    """The repetitions of one ratio, ours over theirs; smaller is better. `unit` is a key of `LEAST`."""

    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What later medians are compared with."""
        return median(self.values)

    def limit(self, noise: float = 0.0) -> float:
        """Largest median that is still within noise, which is at least this share of seconds."""
        least = max(LEAST[self.unit], noise if self.unit == "seconds" else 0.0)
        low, high = np.percentile(self.values, (25, 75))
        return self.median + max(SPREADS * float(high - low), least * self.median)


Ratios = Mapping[str, Recorded]
"""Ratios of one bench by what they are of."""


def measure(bench: str, repetitions: int) -> Ratios:
    """Repeat a bench's short form; what it prepares, and one repetition that warms it up, are not counted."""
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix=f"orchard-{bench}-") as folder:
        repeat: Repetition = import_module(f"benches.{bench}").quick(Path(folder))
        try:
            repeat()
            for _ in range(repetitions):
                for name, value in repeat().items():
                    found[name].append(round(value, 5))
        finally:
            getattr(repeat, "close", lambda: None)()
    return recorded(found)


def recorded(found: Mapping[str, Sequence[float]]) -> Ratios:
    """Ratios of one bench from their repetitions."""
    return {name: Recorded(name.split()[0], tuple(values)) for name, values in found.items()}


def regressions(bench: str, before: Ratios, now: Ratios, noise: float = 0.0) -> Iterator[str]:
    """What is worse than recorded by more than noise, or cannot be compared; one line each."""
    for name in before.keys() - now.keys():
        yield f"{bench}: {name}: recorded, and not measured any more"
    for name, found in now.items():
        if name not in before:
            yield f"{bench}: {name}: measured, and not in the record; run `python -m benches.check --record`"
        elif found.median > before[name].limit(noise):
            yield (
                f"{bench}: {name}: {before[name].median:.4g} before, {found.median:.4g} now, "
                f"limit {before[name].limit(noise):.4g}"
            )


def check(bench: str, before: Ratios, repetitions: int, noise: float) -> list[str]:
    """Measure a bench, and again where something is worse: only what is worse both times is told."""
    now = measure(bench, repetitions)
    for name, found in now.items():
        was = "not there"
        if name in before:
            was = f"{before[name].median:.4g}, limit {before[name].limit(noise):.4g}"
        print(f"{bench}: {name}: {found.median:.4g}; recorded: {was}", flush=True)
    worse = list(regressions(bench, before, now, noise))
    if not worse:
        return []
    print(f"{bench}: worse than recorded; measuring again", flush=True)
    return list(regressions(bench, before, measure(bench, repetitions), noise))


def read_record(path: Path) -> tuple[dict[str, Ratios], dict[str, Any]]:
    """Recorded ratios by bench, and the machine they were measured on."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there; make it with `python -m benches.check --record`")
    record = json.loads(path.read_text(encoding="utf-8"))
    return {bench: recorded(found) for bench, found in record["ratios"].items()}, record["machine"]


def record(path: Path, benches: Sequence[str], repetitions: int, command: list[str]) -> None:
    """Measure, and write the record; benches that are not named keep what is in it."""
    kept = read_record(path)[0] if path.is_file() else {}
    ratios = {bench: kept[bench] for bench in BENCHES if bench in kept and bench not in benches}
    for bench in benches:
        print(f"{bench}: measuring", flush=True)
        ratios[bench] = measure(bench, repetitions)
    told = {bench: {name: found.values for name, found in each.items()} for bench, each in ratios.items()}
    medians = {
        bench: {name: round(found.median, 5) for name, found in each.items()}
        for bench, each in ratios.items()
    }
    facts = {"ratio": "ours over theirs, smaller is better", "medians": medians, "ratios": told}
    write_result(path, command, PACKAGES, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare with the record, or write it; 1 when a ratio is worse by more than noise."""
    parser = argparse.ArgumentParser(prog="python -m benches.check", description=__doc__)
    parser.add_argument("benches", nargs="*", help=f"Of {', '.join(BENCHES)}; all when none is named.")
    parser.add_argument("--record", action="store_true", help="Write the record instead of comparing.")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="Tolerate this share of any ratio of seconds; for a busy machine.",
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="The record.")
    chosen = parser.parse_args(arguments)
    benches = chosen.benches or BENCHES
    unknown = set(benches) - set(BENCHES)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    limit_threads(1)
    if chosen.record:
        own = sys.argv[1:] if arguments is None else arguments
        record(chosen.result, benches, chosen.repetitions, ["python", "-m", "benches.check", *own])
        return 0
    before, machine = read_record(chosen.result)
    here = {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()}
    if any(machine[name] != value for name, value in here.items()):
        print(f"the record is of another machine: {machine}; this one: {here}")
    worse = [
        line
        for bench in benches
        for line in check(bench, before.get(bench, {}), chosen.repetitions, chosen.noise)
    ]
    print("\n".join(["worse than recorded, beyond noise:", *worse] if worse else ["no ratio is worse"]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
