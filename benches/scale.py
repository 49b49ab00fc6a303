"""A lake of 1.5 million photographs through our ingest, runner, planner and Dagster's daemon, part by part.

Run `python -m benches.scale --work FOLDER`; the figures go to benches/results/scale.json, and
`python -m benches.scale_page` writes docs/scale.md from them. Every part runs in a process of its own. What a
part measured is kept in FOLDER/parts.json, so that a run that was broken off goes on with the part it was in;
`--only` names the parts to do now.

Files are tiny (64 x 64 pixels) and models cheap, so that what is measured is everything else. The daemon's
backfill covers `--daemon-shards` shards; what all shards would take is that, multiplied.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from assets.planner import Planner
from assets.stage import StageGraph
from benches.measuring import measured, write_result
from benches.scale_daemon import run_backfill
from benches.scale_growth import growth, lake_size, outlook
from benches.scale_lake import (
    BUMPED,
    FOR_DAEMON,
    STAGES,
    change_photograph,
    scale_graph,
    write_photographs,
)
from pipeline.automation.discovery import discover
from pipeline.automation.launching import stale_launches
from pipeline.dagster_home import open_instance
from pipeline.dagster_storage import history_size
from pipeline.dagster_sync import make_ready, report_versions
from pipeline.execution import run_stages
from resources.lake.consent import Consent
from resources.lake.housekeeping import collect_garbage
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

ROWS, SHARDS, DAEMON_SHARDS = 1_500_000, 366, 8
RESULT = Path(__file__).parent / "results" / "scale.json"
log = logging.getLogger("benches.scale")


class Place:
    """Where everything lies, and how much of it there is: made by the command line, read by every part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photographs, self.home = folder / "photographs", folder / "dagster"
        self.uri = str(folder / "lake")
        wanted = json.loads((folder / "wanted.json").read_text(encoding="utf-8"))
        self.rows, self.shards, self.daemon_shards = (
            wanted[key] for key in ("rows", "shards", "daemon_shards")
        )
        os.environ["DAGSTER_HOME"] = str(self.home)

    @property
    def lake(self) -> Lake:
        return Lake.open(self.uri)


def photographs(folder: str) -> dict[str, Any]:
    """Write the files: no part of what is measured."""
    place = Place(Path(folder))
    shutil.rmtree(place.photographs, ignore_errors=True)
    return {"bytes": write_photographs(place.photographs, place.rows)}


def first_ingest(folder: str) -> dict[str, Any]:
    """`orchard ingest`: every file read, hashed, inspected in the child process, stored."""
    place = Place(Path(folder))
    lake = Lake.open(place.uri, create=True)
    size = math.ceil(place.rows / place.shards)
    done = ingest(
        lake, place.photographs, layout="identity-folders", shard_size=size, consent=Consent.SYNTHETIC
    )
    scale_graph().prepare(lake)
    return {"added": done.added, "unchanged": done.unchanged, "quarantined": sum(done.quarantined.values())}


def stages(folder: str) -> dict[str, Any]:
    """Both row stages over all rows, on photographs that are decoded once."""
    return computing(scale_graph(), STAGES, folder)


def release(folder: str) -> dict[str, Any]:
    """The release of all rows."""
    return computing(scale_graph(), ("release",), folder)


def computing(graph: StageGraph, names: Sequence[str], folder: str) -> dict[str, Any]:
    """`orchard run`: what is stale in these stages."""
    done = run_stages(Place(Path(folder)).lake, graph, names, device="cpu")
    return {"computed": done.computed_rows, "waiting": done.waiting_rows | done.waiting}


def reporting(folder: str) -> dict[str, Any]:
    """What a command does at its end: partitions, data versions and checks are told to Dagster."""
    place = Place(Path(folder))
    lake, graph = place.lake, scale_graph()
    with open_instance(lake) as instance:
        assert instance is not None
        before = history_size(instance)
    make_ready(lake, graph, 1)
    with open_instance(lake) as instance:
        assert instance is not None
        after = history_size(instance)
    return {
        "results": len(lake.faces.snapshot().shards()) * (1 + len(STAGES)) + 1,
        "events": after.events - before.events,
        "history": after.as_json(),
    }


def planning(folder: str) -> dict[str, Any]:
    """`orchard plan` of everything."""
    return plan_of(Place(Path(folder)).lake, scale_graph())


def plan_of(lake: Lake, graph: StageGraph) -> dict[str, Any]:
    planner = Planner(lake, graph)
    plans = {stage.name: planner.plan(stage) for stage in graph.stages}
    return {"stale": {name: plan.stale_rows for name, plan in plans.items() if plan.stale_rows}}


def refreshing(folder: str) -> dict[str, Any]:
    """Both halves of a scheduled refresh: read every folder again, tell Dagster, look for what to launch."""
    place = Place(Path(folder))
    lake, graph, seconds = place.lake, scale_graph(), {}
    found, seconds["discover"] = timed(lambda: discover(lake, log, prune=False))
    launches, seconds["plan"] = timed(lambda: stale_launches(Planner(lake, graph), graph.names))
    with open_instance(lake) as instance:
        assert instance is not None
        events, seconds["tell_dagster"] = timed(lambda: report_versions(instance, lake, graph))
    [report] = found.values()
    looked = {name: report[name] for name in ("unchanged", "replaced", "added")}
    return {"discovered": looked, "launches": len(launches), "events": events, "seconds_of": seconds}


def one_changed(folder: str) -> dict[str, Any]:
    """One photograph is another one: found, its row computed in both stages, a new release."""
    place = Place(Path(folder))
    change_photograph(place.photographs)
    found = refreshing(folder)
    done, seconds = timed(lambda: computing(scale_graph(), (*STAGES, "release"), folder))
    return {**found, **done, "seconds_of": {**found["seconds_of"], "run": seconds}}


def code_bump(folder: str) -> dict[str, Any]:
    """The first stage's code changed and its results did not: the second stage and the release stay."""
    done = computing(scale_graph(BUMPED), (*STAGES, "release"), folder)
    return {**done, "left": plan_of(Place(Path(folder)).lake, scale_graph(BUMPED))["stale"]}


def daemon(folder: str) -> dict[str, Any]:
    """The second stage's code changed: a backfill of some shards through webserver and daemon."""
    place = Place(Path(folder))
    lake, graph = place.lake, scale_graph(FOR_DAEMON)
    make_ready(lake, scale_graph(BUMPED), 1)
    shards = lake.faces.snapshot().shards()[: place.daemon_shards]
    with open_instance(lake) as instance:
        assert instance is not None
        before = history_size(instance)
        ran = run_backfill(place.home, lake.uri, "identity_embedding", shards)
        after = history_size(instance)
    stale = plan_of(lake, graph)["stale"]
    all_shards = round(ran["seconds_per_shard"] * place.shards)
    return {
        **ran,
        "all_shards_seconds_extrapolated": all_shards,
        "stale_afterwards": stale,
        "history_before": before.as_json(),
        "history_after": after.as_json(),
    }


def housekeeping(folder: str) -> dict[str, Any]:
    """`orchard gc` with nothing kept that is not needed."""
    plan = collect_garbage(Place(Path(folder)).lake, keep_seconds=0, safety_seconds=0)
    return {"freed_bytes": plan.bytes}


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "photographs": photographs,
    "ingest": first_ingest,
    "stages": stages,
    "release": release,
    "report": reporting,
    "plan": planning,
    "refresh": refreshing,
    "one_changed": one_changed,
    "code_bump": code_bump,
    "daemon": daemon,
    "gc": housekeeping,
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    started = time.monotonic()
    found = work()
    return found, round(time.monotonic() - started, 2)


def with_children(name: str, folder: str) -> dict[str, Any]:
    """A part's findings, and the processor time of its child processes that still live at its end."""
    found = PARTS[name](folder)
    children = psutil.Process().children(recursive=True)
    return {**found, "children_cpu_seconds": round(sum(sum(item.cpu_times()[:2]) for item in children), 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the parts that are not done yet; write the result once all are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--daemon-shards", type=int, default=DAEMON_SHARDS)
    parser.add_argument("--work", type=Path, help="Keep everything here, and go on with what is here.")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="Do these parts now, again if need be.")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    folder = (chosen.work or Path(tempfile.mkdtemp(prefix="orchard-scale-"))).resolve()
    try:
        wanted = {name: getattr(chosen, name) for name in ("rows", "shards", "daemon_shards")}
        parts = do_parts(folder, wanted, chosen.only)
    finally:
        if chosen.work is None:
            shutil.rmtree(folder)
    if len(parts) < len(PARTS):
        print(f"not done yet: {', '.join(name for name in PARTS if name not in parts)}")
        return
    size = {"rows": chosen.rows, "shards": chosen.shards, "row_stages": len(STAGES)}
    facts = {"size": size, "parts": parts, "growth": growth(parts), "outlook_100_million": outlook(parts)}
    command = ["python", "-m", "benches.scale", *(sys.argv[1:] if arguments is None else arguments)]
    write_result(chosen.result, command, ("pylance", "pyarrow", "numpy", "dagster"), facts)


def do_parts(folder: Path, wanted: dict[str, int], only: Sequence[str] | None) -> dict[str, Any]:
    """Do what is not in `parts.json` yet, or `only` these parts, and return all that is."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, sizes = folder / "parts.json", folder / "wanted.json"
    if sizes.exists() and json.loads(sizes.read_text(encoding="utf-8")) != wanted:
        raise SystemExit(f"{folder} was begun as {sizes.read_text(encoding='utf-8')}; name another --work")
    sizes.write_text(json.dumps(wanted), encoding="utf-8")
    parts = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name in only or [name for name in PARTS if name not in parts]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        parts[name] = measured(partial(with_children, name), str(folder))
        if name != "photographs":
            parts[name]["lake"] = lake_size(Place(folder).lake)
        kept.write_text(json.dumps(parts, indent=1), encoding="utf-8")
        print(f"{name}: {parts[name]['seconds']} s, {parts[name]['peak_rss_mb']} MB", file=sys.stderr)
    return parts


if __name__ == "__main__":
    main()
