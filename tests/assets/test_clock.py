"""Nothing that decides what is stale looks at a clock: it may go backwards, and files may carry any date."""

from __future__ import annotations

import ast
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.planner import Planner
from assets.stage import StageGraph
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

PROJECT = Path(__file__).resolve().parents[2]
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
MAY_LOOK = {
    # how old leftovers are; with a clock gone backwards it keeps more, never less
    "resources/lake/housekeeping.py",
    # a holder compares two readings of its own clock, to notice that its machine slept
    "resources/lake/leases.py",
    # the dates of acceptances and first pulls, for people
    "resources/weights/ledger.py",
    # names of requests and pauses after failures; what is launched follows from the plan alone
    "pipeline/automation/sensors.py",
    # how old the history is that a person wants deleted
    "pipeline/commands/dagster.py",
}


def test_a_clock_that_runs_backwards_changes_nothing(
    lake: Lake, graph: StageGraph, run_all: Callable, photo_root: Path, repaint: Callable, monkeypatch
) -> None:
    run_all(lake, graph)
    seconds = itertools.count(4_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    monkeypatch.setattr(time, "time_ns", lambda: next(seconds) * 10**9)
    assert run_all(lake, graph) == dict.fromkeys(graph.names, 0)
    changed = photo_root / "p1" / "01.png"
    repaint(changed, 250)
    os.utime(changed, (1, 1))
    assert ingest(lake, photo_root, shard_size=4).replaced == 1
    assert run_all(lake, graph) == {"brightness": 1, "band": 1, "caption": 1, "total": 1}
    repaint(changed, 10)
    os.utime(changed, (5_000_000_000, 5_000_000_000))
    assert ingest(lake, photo_root, shard_size=4).replaced == 1
    assert run_all(lake, graph)["brightness"] == 1
    assert run_all(lake, graph) == dict.fromkeys(graph.names, 0)


def test_the_newest_artifact_is_the_one_registered_last(lake: Lake, graph: StageGraph, run_all) -> None:
    run_all(lake, graph)
    first = lake.current_artifact("total")
    run_all(lake, graph, "total", force=True)
    rows = lake.artifacts.snapshot().dataset.to_table(columns=["sequence"])["sequence"].to_pylist()
    assert sorted(rows) == [1, 2]
    assert Planner(lake, graph).artifact("total").current == first


@pytest.mark.parametrize("floor", ["pipeline", "assets", "resources", "models"])
def test_nothing_that_decides_what_is_stale_asks_for_the_time(floor: str) -> None:
    looking = set()
    for path in (PROJECT / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in CLOCKS:
                looking.add(path.relative_to(PROJECT).as_posix())
    assert looking <= MAY_LOOK
