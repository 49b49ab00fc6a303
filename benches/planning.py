"""How long planning takes, and how much memory, on a lake of 1.5 million rows: 400 shards x 12 row stages.

Run `python -m benches.planning`; the figures go to benches/results/planning.json. The lake is synthetic: real
tables, column groups and fingerprints, but no photographs and one small output column per stage. Each figure
is taken in a process of its own, so that peak memory is that of planning and of nothing else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance import LanceOperation
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from assets.planner import Planner
from assets.stage import ArtifactStage, Input, NoConfig, RowModel, RowStage, StageContext, StageGraph
from resources.lake.digest import combine_fingerprints, digest_bytes
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import (
    DIGEST_BYTES,
    FACES_SCHEMA,
    FACES_STAGE,
    LAKE_FORMAT,
    STATE_TYPE,
    Column,
    Status,
    state_column,
)

UPSTREAM = {
    "landmarks": ("faces",),
    "iris": ("faces", "landmarks"),
    "masks": ("faces", "landmarks"),
    "head_pose": ("landmarks",),
    "expression": ("faces", "landmarks"),
    "aesthetics": ("faces", "landmarks"),
    "occlusion": ("faces", "masks"),
    "lighting": ("faces", "masks"),
    "identity_embedding": ("faces", "landmarks"),
    "condition": ("faces", "landmarks", "iris", "masks"),
    "latents": ("faces", "condition"),
    "quality": ("aesthetics", "occlusion", "lighting"),
}
"""Twelve row stages and what they depend on: one to four inputs, five levels deep, as in a real DAG."""

RELEASE_INPUTS = ("aesthetics", "identity_embedding", "latents")


def synthetic_graph(code_versions: dict[str, str] | None = None, release: bool = False) -> StageGraph:
    """Twelve row stages that cannot be run, only planned; with `release`, an artifact over three of them."""
    stages = [_row_stage(name, (code_versions or {}).get(name, "1")) for name in UPSTREAM]
    return StageGraph((*stages, *([_release()] if release else [])))


def _row_stage(name: str, code_version: str) -> RowStage:
    def load(context: StageContext) -> RowModel:
        raise RuntimeError(f"{name} has no model: a synthetic lake is planned, never run")

    return RowStage(
        name=name,
        code_version=code_version,
        description="Synthetic.",
        config=NoConfig(),
        inputs=tuple(Input(item) for item in UPSTREAM[name]),
        outputs=(Column(name, pa.int16()),),
        load=load,
    )


def _release() -> ArtifactStage:
    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return Artifact("release", fingerprint, digest_bytes(fingerprint), "1")

    return ArtifactStage(
        name="release",
        code_version="1",
        description="Synthetic.",
        config=NoConfig(),
        inputs=tuple(Input(item) for item in RELEASE_INPUTS),
        build=build,
    )


def build_lake(folder: Path, shards: int, rows_per_shard: int) -> Lake:
    """A lake in which every row of every stage is ok and fresh, in the layout that real runs leave."""
    lake = Lake.open(folder, create=True)
    graph = synthetic_graph()
    random = np.random.default_rng(0)
    count = shards * rows_per_shard
    digests = {FACES_STAGE: _random_digests(random, count)}
    base = _base_rows(shards, rows_per_shard, digests[FACES_STAGE])
    lance.write_dataset(
        base,
        lake.faces.uri,
        mode="append",
        max_rows_per_file=rows_per_shard,
        max_rows_per_group=rows_per_shard,
    )
    graph.prepare(lake)
    for stage in graph.row_stages():
        digests[stage.name] = _random_digests(random, count)
        upstream = [digests[item.stage] for item in stage.inputs]
        fingerprints = combine_fingerprints(stage.prefix, upstream)
        values = pa.array(random.integers(0, 100, count, dtype=np.int16))
        state = _states(fingerprints, digests[stage.name])
        group = pa.table([values, state], schema=pa.schema(stage.group_fields))
        _commit_everywhere(lake, group, rows_per_shard)
    return lake


def change_one_row(lake: Lake, place: int = 123) -> None:
    """Replace one photograph, as the ingest does: its row moves to a fragment of its own."""
    row = lake.faces.snapshot().dataset.scanner(columns=FACES_SCHEMA.names, limit=1, offset=place).to_table()
    values = row.to_pylist()[0]
    digest = digest_bytes(uuid.uuid4().bytes)
    values[state_column(FACES_STAGE)] |= {"digest": digest, "fingerprint": digest}
    lake.faces.replace(pa.Table.from_pylist([values], schema=FACES_SCHEMA))


def _random_digests(random: np.random.Generator, count: int) -> pa.Array:
    data = pa.py_buffer(random.bytes(count * DIGEST_BYTES))
    return pa.Array.from_buffers(pa.binary(DIGEST_BYTES), count, [None, data])


def _states(fingerprints: pa.Array, digests: pa.Array) -> pa.StructArray:
    count = len(digests)
    columns = {
        "fingerprint": fingerprints,
        "digest": digests,
        "status": pa.repeat(Status.OK.value, count),
        "reason": pa.nulls(count, pa.string()),
        "detail": pa.nulls(count, pa.string()),
        "attempt": pa.repeat(pa.scalar(1, pa.int16()), count),
        "code_version": pa.repeat("1", count),
    }
    return pa.StructArray.from_arrays(list(columns.values()), fields=list(STATE_TYPE))


def _base_rows(shards: int, rows_per_shard: int, digests: pa.Array) -> pa.Table:
    count = shards * rows_per_shard
    keys = [f"p{index // 20:06d}/{index % 20:02d}" for index in range(count)]
    columns: dict[str, pa.Array] = {
        "image_id": pa.array(keys),
        "identity": pa.array([key[:7] for key in keys]),
        "shard": pa.array([f"shard-{index // rows_per_shard:05d}" for index in range(count)]),
        "source": pa.array([f"/photos/{key}.jpg" for key in keys]),
        "consent": pa.repeat("synthetic", count),
        state_column(FACES_STAGE): _states(digests.cast(pa.binary()), digests),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in FACES_SCHEMA]
    return pa.table(arrays, schema=FACES_SCHEMA)


def _commit_everywhere(lake: Lake, group: pa.Table, rows_per_shard: int) -> None:
    """One column group of all fragments in one commit: the files of 400 commits, without their time."""
    snapshot = lake.faces.snapshot()
    fields = {field.name(): field for field in snapshot.dataset.lance_schema.fields()}
    leaves = [leaf.id() for name in group.schema.names for leaf in fields[name].children() or [fields[name]]]
    major, minor = (int(part) for part in LAKE_FORMAT.split("."))
    groups = []
    for place, fragment in enumerate(snapshot.dataset.get_fragments()):
        name = f"{uuid.uuid4().hex}.lance"
        with LanceFileWriter(
            f"{lake.faces.uri}/data/{name}", schema=group.schema, version=LAKE_FORMAT
        ) as writer:
            for batch in group.slice(place * rows_per_shard, rows_per_shard).combine_chunks().to_batches():
                writer.write_batch(batch)
        data_file = DataFile(name, leaves, list(range(len(leaves))), major, minor, None)
        groups.append(LanceOperation.DataReplacementGroup(fragment.fragment_id, data_file))
    transaction = lance.Transaction(
        read_version=snapshot.version, operation=LanceOperation.DataReplacement(groups)
    )
    lance.LanceDataset.commit(lake.faces.uri, transaction)


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


def measured(work: Callable[[str], dict[str, Any]], uri: str) -> dict[str, Any]:
    """Seconds and peak memory of one piece of work in a fresh process; imports are not counted in."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, uri))


def _measure(work: Callable[[str], dict[str, Any]], uri: str) -> dict[str, Any]:
    wall, cpu = time.monotonic(), time.process_time()
    found = work(uri)
    return {
        "seconds": round(time.monotonic() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "found": found,
    }


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
    result = {
        "command": " ".join(["python", "-m", "benches.planning", *(arguments or sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("pylance", "pyarrow", "numpy")},
        "lake": {
            "shards": chosen.shards,
            "rows": chosen.shards * chosen.rows_per_shard,
            "row_stages": len(UPSTREAM),
            "build_seconds": round(built, 1),
        },
        "bar": {"seconds": 10, "peak_rss_mb": 2048},
        "figures": figures,
    }
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
