"""Ingest one folder in a process of its own and write what became of every file, as JSON.

Run by `run.py`, which sees from outside whether this process crashes or hangs.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tree import interfere

from resources.lake.ingest import ingest, source_path
from resources.lake.lake import Lake
from resources.photos.decoding import DecodeLimits
from resources.photos.isolation import shared_inspector
from resources.photos.layouts import FoundPhoto
from resources.photos.names import escape


def main() -> None:
    """Arguments: lake, folder, result, limits as JSON."""
    lake_path, folder, result = (Path(argument) for argument in sys.argv[1:4])
    limits = DecodeLimits.model_validate_json(sys.argv[4])
    lake = Lake.open(lake_path, create=True)
    seen: list[tuple[float, str]] = []

    def on_photo(photo: FoundPhoto) -> None:
        interfere(photo.path)
        seen.append((time.perf_counter(), photo.relative))

    report = ingest(lake, folder, limits=limits, on_photo=on_photo)
    seen.append((time.perf_counter(), ""))
    again = ingest(lake, folder, limits=limits)
    deaths = shared_inspector().deaths
    shared_inspector().close()
    spent = [(after[0] - before[0], before[1]) for before, after in pairwise(seen)]
    slowest = max(spent, default=(0.0, ""))
    answer = {
        "rows": _rows(lake),
        "skipped": report.skipped,
        "report": report.as_json(),
        "again": again.as_json(),
        "deaths": deaths,
        "slowest": {"file": slowest[1], "seconds": slowest[0]},
        "peak_mib": {"ingest": _own_peak(), "decoder": _children_peak()},
    }
    result.write_text(json.dumps(answer), encoding="utf-8")


def _rows(lake: Lake) -> dict[str, str]:
    """Fate of every row by its escaped path; a sound row holds the very bytes of its file."""
    columns = ["source", "image", "image_sha256", "faces_state"]
    fates: dict[str, str] = {}
    for batch in lake.faces.snapshot().dataset.to_batches(columns=columns, batch_size=256):
        row: dict[str, Any]
        for row in batch.to_pylist():
            state = row["faces_state"]
            fate = "ok" if state["status"] == "ok" else state["reason"]
            if fate == "ok":
                data = source_path(row["source"]).read_bytes()
                right = row["image"] == data and row["image_sha256"] == hashlib.sha256(data).hexdigest()
                fate = fate if right else "wrong bytes"
            elif row["image"] is not None or not state["detail"]:
                fate = f"{fate}, badly recorded"
            if row["source"] in fates:
                fate = "two rows"
            fates[escape(str(source_path(row["source"])))] = fate
    return fates


def _own_peak() -> float:
    """Peak resident memory of this process in MiB; counted from its exec, unlike `ru_maxrss`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _children_peak() -> float:
    """Peak resident memory in MiB of the largest child that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main()
