"""Run by test_storage_errors.py in a process of its own, whose writes the operating system refuses.

Usage: refused_writes.py MODE LAKE PHOTOS. MODE `owner` gives up the right to write in the lake, `size`
forbids files above 60 kB. Prints one JSON object: for every action the error's type and text, or null.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from resources.lake.commit import commit_group
from resources.lake.forget import forget
from resources.lake.housekeeping import collect_garbage
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.repair import repair
from resources.lake.state import ingest_account

NOBODY = 65534
LARGEST_FILE = 60_000
NOTE = pa.field("note", pa.binary())


@works_on_lake
def write_notes(lake: Lake) -> None:
    """What a stage does: commit a column group of 200 kB."""
    snapshot = lake.faces.snapshot()
    rows = snapshot.fragment_rows(0)
    notes = pa.array([os.urandom(200_000 // rows) for _ in range(rows)], NOTE.type)
    commit_group(snapshot, 0, pa.Table.from_arrays([notes], schema=pa.schema([NOTE])))


@works_on_lake
def write_list(lake: Lake) -> None:
    """What a release does: write a file of its own beside the tables."""
    (lake.folder("releases") / "list.unfinished").write_bytes(b"0" * 200_000)


def main(mode: str, uri: str, photos: str) -> dict[str, list[str] | None]:
    lake = Lake.open(uri)
    if mode == "owner" and os.geteuid() == 0:
        os.setuid(NOBODY)
    elif mode == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    actions: dict[str, Callable[[], object]] = {
        "open and read": lambda: ingest_account(Lake.open(uri)),
        "create": lambda: Lake.open(Path(uri) / "inner", create=True),
        "ingest": lambda: ingest(lake, Path(photos)),
        "stage": lambda: write_notes(lake),
        "list": lambda: write_list(lake),
        "column": lambda: lake.faces.ensure_columns([pa.field("more", pa.int32())]),
        "forget": lambda: forget(lake, image_ids=["p0/00"]),
        "gc": lambda: collect_garbage(lake, keep_seconds=0),
        "repair": lambda: repair(lake, {}, say=lambda text: None),
    }
    told: dict[str, list[str] | None] = {}
    for name, action in actions.items():
        if mode == "size" and name not in ("open and read", "ingest", "stage", "list"):
            continue
        try:
            action()
            told[name] = None
        except Exception as error:  # the test wants to see which error it is, whatever it is
            told[name] = [type(error).__name__, str(error)]
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
