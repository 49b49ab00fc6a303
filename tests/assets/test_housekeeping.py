"""`orchard gc` on a real lake: what it frees, what it says beforehand, and what it must not touch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.stage import Input, NoConfig, RowStage, StageContext, StageGraph
from resources.lake.digest import digest_bytes
from resources.lake.errors import LakeError
from resources.lake.housekeeping import collect_garbage, plan_garbage
from resources.lake.lake import Artifact, Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import Column

CROP_BYTES = 20_000


@pytest.fixture
def graph(graph: StageGraph) -> StageGraph:
    """The small graph and a stage whose column is larger than the photographs."""

    def load(context: StageContext):
        def crop(row) -> bytes:
            seed = int(row["brightness"])
            return np.random.default_rng(seed).integers(0, 256, CROP_BYTES, np.uint8).tobytes()

        return lambda rows: [{"crop": crop(row)} for row in rows]

    crops = RowStage(
        name="crops",
        code_version="1",
        description="Incompressible bytes.",
        config=NoConfig(),
        inputs=(Input("brightness", ("brightness",)),),
        outputs=(Column("crop", pa.binary(), picture=True),),
        load=load,
    )
    return StageGraph((*graph.stages, crops))


def size(lake: Lake) -> int:
    return sum(path.stat().st_size for path in Path(lake.uri).rglob("*") if path.is_file())


def crops(lake: Lake, version: int | None = None) -> dict[str, bytes]:
    rows = lake.faces.snapshot(version).scan(["image_id", "crop"]).to_pylist()
    return {row["image_id"]: row["crop"] for row in rows}


def test_ten_reruns_of_a_stage_leave_no_more_than_a_fifth_behind(
    lake: Lake, graph: StageGraph, run_all: Callable
) -> None:
    run_all(lake, graph)
    once, before = size(lake), crops(lake)
    for _ in range(10):
        assert run_all(lake, graph, "crops", force=True) == {"crops": 12}
    grown = size(lake)
    assert grown > 5 * once
    announced = plan_garbage(lake, keep_seconds=0)
    assert size(lake) == grown
    done = collect_garbage(lake, keep_seconds=0)
    assert done.as_json() == announced.as_json()
    assert done.bytes == grown - size(lake)
    assert size(lake) <= 1.2 * once
    assert crops(lake) == before
    lake.faces.snapshot().dataset.validate()
    assert run_all(lake, graph) == dict.fromkeys(graph.names, 0)
    assert collect_garbage(lake, keep_seconds=0).bytes == 0


def test_a_tagged_version_stays_whole(lake: Lake, graph: StageGraph, run_all: Callable) -> None:
    run_all(lake, graph)
    version = lake.faces.snapshot().version
    lake.faces.tag("release-one", version)
    before = crops(lake)
    run_all(lake, graph, "crops", force=True)
    run_all(lake, graph, "crops", force=True)
    collect_garbage(lake, keep_seconds=0)
    assert crops(lake, version) == crops(lake) == before


def test_young_versions_and_young_files_stay(lake: Lake, graph: StageGraph, run_all: Callable) -> None:
    run_all(lake, graph)
    run_all(lake, graph, "crops", force=True)
    fresh = Path(lake.faces.uri) / "data" / "about_to_be_committed.lance"
    left = fresh.with_name("left_by_a_killed_worker.lance")
    half = fresh.with_name(".tmpAbCdEf")
    for path in (fresh, left, half):
        path.write_bytes(b"0" * 1000)
    for path in (left, half):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    versions = len(lake.faces.snapshot().dataset.versions())
    done = collect_garbage(lake)
    assert [vars(item) for item in done.waste] == [
        {"kind": "data files without a version", "name": "faces", "files": 2, "bytes": 2000}
    ]
    assert (fresh.exists(), left.exists(), half.exists()) == (True, False, False)
    assert len(lake.faces.snapshot().dataset.versions()) == versions
    assert collect_garbage(lake, keep_seconds=0, safety_seconds=0).bytes > 0
    assert not fresh.exists()


def test_files_dated_in_the_future_by_a_wrong_clock_stay(lake: Lake) -> None:
    ahead = Path(lake.faces.uri) / "data" / "from_tomorrow.lance"
    ahead.write_bytes(b"0")
    os.utime(ahead, (4_000_000_000, 4_000_000_000))
    collect_garbage(lake, keep_seconds=0, safety_seconds=0)
    assert ahead.exists()


def test_checkpoints_lists_and_training_states_that_nothing_names_go(lake: Lake) -> None:
    root = Path(lake.uri)
    files = {
        "checkpoints/used/adapter.safetensors": True,
        "checkpoints/unused/adapter.safetensors": False,
        "checkpoints/.unfinished-1-ab/adapter.safetensors": False,
        "training/used/losses.jsonl": True,
        "training/used/tensorboard/events.out.tfevents.0": True,
        "training/used/validation/step_00000005.png": True,
        "training/used/state-5/optimiser.safetensors": False,
        "training/broken_off/state-5/optimiser.safetensors": False,
        "releases/used.parquet": True,
        "releases/unused.parquet": False,
        "releases/half.unfinished": False,
    }
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 100)
    digest = digest_bytes(b"made")
    metadata = {"losses": "training/used/losses.jsonl"}
    lake.record_artifact(Artifact("teacher", b"f", digest, "1", "checkpoints/used", metadata))
    lake.record_artifact(Artifact("release", b"f", digest, "1", "releases/used.parquet"))
    assert plan_garbage(lake).waste == []
    announced = plan_garbage(lake, keep_seconds=0, safety_seconds=0)
    assert sum(item.files for item in announced.waste if item.kind != "old versions") == 6
    collect_garbage(lake, keep_seconds=0, safety_seconds=0)
    assert {name: (root / name).exists() for name in files} == files


def test_nothing_is_removed_while_somebody_computes(lake: Lake) -> None:
    @works_on_lake
    def compute(lake: Lake) -> None:
        with pytest.raises(LakeError, match="another process is computing"):
            collect_garbage(lake, keep_seconds=0)

    compute(lake)
