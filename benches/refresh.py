"""What a refresh costs over 1.5 million real files: nothing changed, then one photograph changed.

Run `python -m benches.refresh`; the figures go to benches/results/refresh.json. The folder holds a small file
for every row of the synthetic lake, with the name, size and time that the lake knows, and Dagster's own state
has every shard of every stage already. Each part is measured in a process of its own, then the whole.
The files were just written, so what the file system knows of them is in memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.planner import Planner
from benches.measuring import measured, write_result
from benches.planning import plan_everything
from benches.synthetic_lake import (
    UPSTREAM,
    add_pairs,
    build_lake,
    build_photographs,
    photo_bytes,
    synthetic_graph,
)
from pipeline.dagster_home import open_instance
from pipeline.dagster_sync import report_versions
from pipeline.execution import run_stages
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

PAIR_SHARDS = 40
PLANS_OF_A_RUN = 5
"""A run of one shard plans it about so often: before, at the commit, after, and for the account."""


def photographs(uri: str) -> Path:
    """The folder of the photographs of a lake of this bench."""
    return Path(uri).parent / "photographs"


def ingesting(uri: str) -> dict[str, Any]:
    """Look at every file; read those whose size or time is another one."""
    report = ingest(Lake.open(uri), photographs(uri), layout="identity-folders")
    return {"unchanged": report.unchanged, "replaced": report.replaced, "shards": report.shards}


def planning(uri: str) -> dict[str, Any]:
    """What `orchard plan` tells."""
    return plan_everything(Lake.open(uri), synthetic_graph())


def running(uri: str) -> dict[str, Any]:
    """Compute what is stale: plans included."""
    done = run_stages(Lake.open(uri), synthetic_graph(), tuple(UPSTREAM))
    return {"computed_rows": sum(done.computed_rows.values()), "waiting_rows": done.waiting_rows}


def reporting(uri: str) -> dict[str, Any]:
    """Tell Dagster partitions and data versions: 400 shards of `faces` and of twelve stages."""
    from assets.dagster_assets import register_partitions

    os.environ["DAGSTER_HOME"] = str(Path(uri).parent / "dagster")
    lake = Lake.open(uri)
    with open_instance(lake) as instance:
        if instance is None:
            raise RuntimeError(f"the Dagster home beside {uri} belongs to another lake")
        register_partitions(instance, lake)
        return {"events": report_versions(instance, lake, synthetic_graph())}


def whole_refresh(uri: str) -> dict[str, Any]:
    """All of it in one process, as `refresh_job` does it."""
    return {**ingesting(uri), **running(uri), **reporting(uri)}


def pair_shard(uri: str) -> dict[str, Any]:
    """Plan one shard of pairs of photographs, as often as a run of it does."""
    lake, graph, planner = Lake.open(uri), synthetic_graph(pairs=True), None
    seconds = []
    for _ in range(PLANS_OF_A_RUN):
        started = time.monotonic()
        planner = Planner(lake, graph, earlier=planner)
        planner.table("triplets", "triplets-00000")
        seconds.append(round(time.monotonic() - started, 2))
    return {"seconds_of_each_plan": seconds}


def change_one_file(uri: str) -> None:
    """Write another photograph in the place of one."""
    (photographs(uri) / "p000006" / "03.png").write_bytes(photo_bytes(140))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files, build the lake, measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--rows-per-shard", type=int, default=3750)
    parser.add_argument(
        "--folder", type=Path, help="Make everything under this folder, which must not exist."
    )
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "refresh.json")
    chosen = parser.parse_args(arguments)
    if chosen.folder and chosen.folder.exists():
        parser.error(f"{chosen.folder} exists; it is removed at the end, so name a new one")
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="orchard-refresh-"))
    uri = str(folder.resolve() / "lake")
    try:
        started = time.monotonic()
        build_photographs(photographs(uri), chosen.shards * chosen.rows_per_shard)
        wrote = time.monotonic()
        lake = build_lake(Path(uri), chosen.shards, chosen.rows_per_shard, photographs(uri))
        add_pairs(lake, min(PAIR_SHARDS, chosen.shards), chosen.rows_per_shard)
        built = time.monotonic()
        # the first ingest records the folder, the first report every shard
        first = {work.__name__: measured(work, uri) for work in (ingesting, reporting)}
        parts = (ingesting, planning, running, reporting, whole_refresh)
        nothing = {work.__name__: measured(work, uri) for work in parts}
        pairs = measured(pair_shard, uri)
        change_one_file(uri)
        changed = {work.__name__: measured(work, uri) for work in (ingesting, planning, running, reporting)}
    finally:
        shutil.rmtree(folder)
    facts = {
        "lake": {
            "shards": chosen.shards,
            "rows": chosen.shards * chosen.rows_per_shard,
            "row_stages": len(UPSTREAM),
            "seconds_to_write_the_files": round(wrote - started, 1),
            "seconds_to_build_the_lake": round(built - wrote, 1),
        },
        "bar": {"planning": {"seconds": 10}, "whole_refresh": {"seconds": 60, "peak_rss_mb": 2048}},
        "first_time": first,
        "nothing_changed": nothing,
        "one_file_changed": changed,
        "pair_shard": pairs,
    }
    command = ["python", "-m", "benches.refresh", *(arguments or sys.argv[1:])]
    write_result(chosen.result, command, ("pylance", "pyarrow", "numpy", "dagster"), facts)


if __name__ == "__main__":
    main()
