"""Hostile files by the thousand through the real ingest: no crash, no hang, every file accounted for.

`make fuzz` runs the long form; `--short` is for `make test`. One seed always makes the same files. The table
and the JSON file hold one line per format and family.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import formats
from bombs import bombs
from mutations import FAMILIES, OK
from PIL import features
from rich.console import Console
from rich.table import Table
from tree import LEFT_OUT, SKIPPED, make_tree

from resources.photos.names import escape

SEED = 20261122
LONG, SHORT = 4_400, 132
"""Mutated files of each format."""

HANG_SECONDS = 1800
TIGHT = {"max_seconds": 0.3, "max_memory": 400 * 2**20}
"""Limits under which most large files must fail, each alone."""


@dataclass
class Line:
    """One family of files of one format: how many there were and what became of them."""

    format: str
    family: str
    files: int = 0
    ok: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    left_out: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Made:
    """A file that was made: where, its line, and the fates that are right."""

    path: Path
    format: str
    family: str
    allowed: frozenset[str]


class Run:
    """One folder after another, each ingested by a process of its own."""

    def __init__(self, root: Path, short: bool, seed: int) -> None:
        self.root, self.short, self.seed = root, short, seed
        self.lines: dict[tuple[str, str], Line] = {}
        self.crashes = self.hangs = self.deaths = 0
        self.peaks: Counter[str] = Counter()
        self.slowest: dict[str, Any] = {"file": "", "seconds": 0.0}

    def run(self) -> None:
        """Make and ingest everything."""
        self._ingest("mutated", self._mutated(), {})
        # libjpeg and libwebp report a lack of memory as damage.
        starved = {"too_slow", "too_large", "undecodable"}
        exploding = self._bombs()
        self._ingest("bombs", exploding, {})
        tight = [
            Made(
                item.path,
                item.format,
                f"{item.family}, tight limits",
                item.allowed | starved,
            )
            for item in exploding
        ]
        self._ingest("bombs", tight, TIGHT)
        photo = formats.seeds()["JPEG"][0]
        tree = make_tree(self.root / "tree", photo)
        made = [Made(item.path, "any", item.kind, frozenset((item.fate,))) for item in tree]
        self._ingest("tree", made, {})

    def _mutated(self) -> list[Made]:
        made = []
        for image_format, photos in formats.seeds().items():
            each = -(-(SHORT if self.short else LONG) // len(FAMILIES))
            for name, family in FAMILIES.items():
                folder = self.root / "mutated" / f"{image_format}-{name}"
                folder.mkdir(parents=True)
                for number in range(each):
                    random = Random(f"{self.seed} {image_format} {name} {number}")
                    photo = family.make(random, image_format, photos[number % len(photos)])
                    ending = random.choice(family.extensions or (formats.EXTENSIONS[image_format],))
                    path = folder / f"{number:05d}{'.' if ending else ''}{ending}"
                    path.write_bytes(photo)
                    made.append(Made(path, image_format, name, family.allowed))
        return made

    def _bombs(self) -> list[Made]:
        made = []
        for image_format, name, photo, allowed in bombs(self.short):
            path = self.root / "bombs" / image_format / f"{name}.{formats.EXTENSIONS[image_format]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo)
            made.append(Made(path, image_format, "bombs", allowed))
        return made

    def _ingest(self, name: str, made: list[Made], limits: Mapping[str, float]) -> None:
        lake, result = self.root / f"lake-{len(self.lines)}", self.root / f"result-{len(self.lines)}.json"
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(lake)]
        command += [str(self.root / name), str(result), json.dumps(limits)]
        try:
            done = subprocess.run(command, timeout=HANG_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            self.hangs += 1
            return
        if done.returncode != 0:
            self.crashes += 1
            return
        answer = json.loads(result.read_text(encoding="utf-8"))
        self.deaths += answer["deaths"]
        self.slowest = max(self.slowest, answer["slowest"], key=lambda item: item["seconds"])
        for process, peak in answer["peak_mib"].items():
            self.peaks[process] = max(self.peaks[process], round(peak))
        self._judge(made, answer)

    def _judge(self, made: list[Made], answer: dict[str, Any]) -> None:
        rows, skipped = answer["rows"], answer["skipped"]
        for item in made:
            line = self.lines.setdefault((item.format, item.family), Line(item.format, item.family))
            path = escape(str(item.path))
            line.files += 1
            fate = rows.pop(path, None)
            if fate is None:
                starts = (f"{path}: ", f"{path.rpartition('/')[0]}: ")
                fate = SKIPPED if any(said.startswith(starts) for said in skipped) else LEFT_OUT
            if fate == OK:
                line.ok += 1
            elif fate == SKIPPED:
                line.skipped += 1
            elif fate == LEFT_OUT:
                line.left_out += 1
            else:
                line.quarantined[fate] += 1
            if fate not in item.allowed:
                line.wrong.append(f"{item.path.name}: {fate}, not {' or '.join(sorted(item.allowed))}")
        line = self.lines[(made[0].format, made[0].family)]
        line.wrong += [f"{path}: a row of a file that nobody made" for path in rows]
        again = answer["again"]
        # Files that could not be read are tried again each time; nothing else may change.
        if again["added"] or again["replaced"] > sum(again["quarantined"].values()):
            line.wrong.append(f"a second ingest changed rows: {again}")

    @property
    def files(self) -> int:
        """Files tried."""
        return sum(line.files for line in self.lines.values())

    @property
    def green(self) -> bool:
        """Whether nothing crashed or hung and every file had a fate that is right."""
        return bool(self.lines) and not (
            self.crashes or self.hangs or any(line.wrong for line in self.lines.values())
        )


def report(run: Run, seconds: float) -> Table:
    """The lines as a table for people."""
    table = Table(title=f"{run.files} hostile files through the real ingest", box=None)
    for name in ("format", "family", "files", "ok", "quarantined", "skipped", "left out", "verdict"):
        table.add_column(name, justify="right" if name in ("files", "ok", "skipped", "left out") else "left")
    for line in run.lines.values():
        reasons = ", ".join(f"{count} {reason}" for reason, count in line.quarantined.most_common())
        numbers = (str(line.files), str(line.ok), reasons, str(line.skipped), str(line.left_out))
        table.add_row(line.format, line.family, *numbers, line.wrong[0] if line.wrong else "ok")
    table.caption = (
        f"crashes {run.crashes}, hangs {run.hangs}, decoders stopped {run.deaths}; peak memory "
        f"{run.peaks['ingest']} MiB (ingest), {run.peaks['decoder']} MiB (decoder); slowest "
        f"{run.slowest['seconds']:.1f} s ({run.slowest['file']}); {seconds:.0f} s in all"
    )
    return table


def as_json(run: Run, seconds: float, short: bool) -> dict[str, Any]:
    """The lines and where they come from, as plain values."""
    lines = list(run.lines.values())
    return {
        "what": "hostile files through the real ingest: what became of each",
        "command": "make fuzz" if not short else "python tests/fuzz/run.py --short",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": platform.machine(), "python": platform.python_version()},
        "versions": {
            **{name: version(name) for name in ("pillow", "pylance", "pyarrow")},
            **{name: features.version(name) for name in ("libjpeg_turbo", "zlib", "webp")},
        },
        "seed": run.seed,
        "seconds": round(seconds, 1),
        "files": run.files,
        "ok": sum(line.ok for line in lines),
        "quarantined": dict(sum((line.quarantined for line in lines), Counter()).most_common()),
        "skipped_and_named": sum(line.skipped for line in lines),
        "left_out_by_rule": sum(line.left_out for line in lines),
        "crashes": run.crashes,
        "hangs": run.hangs,
        "wrong_fates": sum(len(line.wrong) for line in lines),
        "decoders_stopped": run.deaths,
        "peak_mib": dict(run.peaks),
        "slowest": {"file": run.slowest["file"], "seconds": round(run.slowest["seconds"], 2)},
        "lines": [{**vars(line), "quarantined": dict(line.quarantined)} for line in lines],
    }


def main() -> int:
    """Run it; 0 when every file is accounted for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--short", action="store_true", help=f"{SHORT} files of each format, small bombs")
    options.add_argument("--seed", type=int, default=SEED, help="another one makes other files")
    options.add_argument("--json", type=Path, help="where to write the result")
    chosen = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orchard-fuzz-") as folder:
        run = Run(Path(folder), chosen.short, chosen.seed)
        run.run()
    seconds = time.monotonic() - started
    Console(width=170, soft_wrap=True).print(report(run, seconds))
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(run, seconds, chosen.short), indent=1, ensure_ascii=False)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    return 0 if run.green else 1


if __name__ == "__main__":
    sys.exit(main())
