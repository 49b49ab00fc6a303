"""How long planning takes, and how much memory, on a lake of 1.5 million rows: 400 shards x 12 row stages.

Run `python -m benches.planning`; the figures go to benches/results/planning.json. The lake is synthetic: real
tables, column groups and fingerprints, but no photographs and one small output column per stage. Each figure
is taken in a process of its own, so that peak memory is that of planning and of nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.planner import Planner
from assets.stage import StageGraph
from benches.clocks import best_seconds
from benches.measuring import Repetition, measured, write_result
from benches.synthetic_lake import UPSTREAM, build_lake, change_one_row, synthetic_graph
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE, state_column


def plan_everything(lake: Lake, graph: StageGraph) -> dict[str, Any]:
    """Stale rows by stage, and the reasons: what `orchard plan` asks for."""
    planner = Planner(lake, graph)
    plans = {stage.name: planner.plan(stage) for stage in graph.stages}
    return {
        "stale_rows": sum(plan.stale_rows for plan in plans.values()),
        "waiting_rows": sum(plan.waiting_rows for plan in plans.values()),
        "why": {name: plan.why for name, plan in plans.items() if plan.why},
    }


def noop(uri: str) -> dict[str, Any]:
    """Everything is fresh: what a scheduled refresh finds on most days."""
    return plan_everything(Lake.open(uri), synthetic_graph())


def noop_with_release(uri: str) -> dict[str, Any]:
    """The same with a release over three stages, whose fingerprint hashes three digests of every row."""
    return plan_everything(Lake.open(uri), synthetic_graph(release=True))


def code_bump(uri: str) -> dict[str, Any]:
    """The first stage's code changed: every row of it is stale, everything behind it waits."""
    return plan_everything(Lake.open(uri), synthetic_graph({"landmarks": "2"}))


def one_shard(uri: str) -> dict[str, Any]:
    """The plan that a stage's run makes for one shard."""
    table = Planner(Lake.open(uri), synthetic_graph()).table("faces", "shard-00001")
    return {"rows": len(table.row_ids), "digest": table.shard_digests("latents")["shard-00001"]}


def all_shard_digests(uri: str) -> dict[str, Any]:
    """Data versions of all shards of one stage: what Dagster is told after a run."""
    table = Planner(Lake.open(uri), synthetic_graph()).table("faces")
    return {"shards": len(table.shard_digests("latents"))}


def row_by_row(lake: Lake, graph: StageGraph) -> int:
    """Stale rows as a loop over rows finds them, without a planner: the yardstick of the short form."""
    names = [f"{state_column(name)}.{part}" for name in graph.names for part in ("digest", "fingerprint")]
    faces = f"{state_column(FACES_STAGE)}.digest"
    stale = 0
    for row in lake.faces.snapshot().scan([faces, *names]).to_pylist():
        for stage in graph.row_stages("faces"):
            inputs = [row[f"{state_column(item.stage)}.digest"] for item in stage.inputs]
            expected = stage.prefix + b"".join(inputs)
            stale += row[f"{state_column(stage.name)}.fingerprint"] != expected
    return stale


def quick(folder: Path) -> Repetition:
    """A plan of 4,000 rows of twelve stages, one photograph changed, against a loop over the same rows."""
    lake, graph = build_lake(folder / "lake", shards=4, rows_per_shard=1000), synthetic_graph()
    change_one_row(lake)

    def repeat() -> dict[str, float]:
        ours = best_seconds(lambda: plan_everything(lake, graph), 3)
        return {
            "seconds of the planner over a loop over rows": ours
            / best_seconds(lambda: row_by_row(lake, graph), 2)
        }

    planned, counted = plan_everything(lake, graph)["stale_rows"], row_by_row(lake, graph)
    if planned != counted:
        raise RuntimeError(f"the plan has {planned} stale rows, a loop over the rows {counted}")
    return repeat


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the lake, measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--rows-per-shard", type=int, default=3750)
    parser.add_argument("--folder", type=Path, help="Keep the lake here and use one that is already there.")
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "planning.json")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="orchard-planning-"))
    try:
        started = time.monotonic()
        if not (folder / "faces.lance").exists():
            build_lake(folder, chosen.shards, chosen.rows_per_shard)
        built = time.monotonic() - started
        uri = str(folder)
        cases = [noop, noop_with_release, code_bump, one_shard, all_shard_digests]
        figures = {case.__name__: measured(case, uri) for case in cases}
        change_one_row(Lake.open(uri))
        figures["one_changed_row"] = measured(noop, uri)
    finally:
        if chosen.folder is None:
            shutil.rmtree(folder)
    lake = {
        "shards": chosen.shards,
        "rows": chosen.shards * chosen.rows_per_shard,
        "row_stages": len(UPSTREAM),
        "build_seconds": round(built, 1),
    }
    write_result(
        chosen.result,
        ["python", "-m", "benches.planning", *(arguments or sys.argv[1:])],
        ("pylance", "pyarrow", "numpy"),
        {"lake": lake, "bar": {"seconds": 10, "peak_rss_mb": 2048}, "figures": figures},
    )


if __name__ == "__main__":
    main()
