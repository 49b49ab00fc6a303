"""Dagster's own command line from the repository's folder, and what Dagster thinks after `orchard run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from PIL import Image

from assets.dagster_assets import register_partitions
from pipeline.dagster_sync import report_versions, sync_instance
from pipeline.definitions import build_definitions
from pipeline.profiles import profile
from resources.lake.lake import Lake

pytestmark = pytest.mark.timeout(900)
STAGES = ("landmarks", "iris", "masks")
SHARDS = ("shard-00000", "shard-00001", "shard-00002")


@contextmanager
def opened(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def statuses(instance: dg.DagsterInstance, lake: Lake) -> dict[tuple[str, str | None], StaleStatus]:
    """What Dagster's own resolver says of every asset and partition."""
    graph = build_definitions(lake.uri, "smoke").resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found: dict[tuple[str, str | None], StaleStatus] = {}
    for key in graph.materializable_asset_keys:
        partitions = graph.get(key).partitions_def
        keys = partitions.get_partition_keys(dynamic_partitions_store=instance) if partitions else [None]
        for partition in keys:
            found[key.to_user_string(), partition] = resolver.get_status(key, partition)
    return found


def of_stages(found: dict[tuple[str, str | None], StaleStatus], status: StaleStatus) -> set[tuple[str, Any]]:
    return {key for key, value in found.items() if key[0] in ("faces", *STAGES) and value is status}


ALL_OF_THEM = {(stage, shard) for stage in ("faces", *STAGES) for shard in SHARDS}


@pytest.fixture(scope="module")
def place(make_place: Callable[[str], Any]) -> Any:
    """Photographs ingested, their shards registered as partitions, and nothing else."""
    place = make_place("dg")
    place.orchard("ingest", str(place.photos), "--shard-size", "4")
    return place


def test_definitions_load_in_every_way_dagster_knows(place: Any) -> None:
    dg_command, dagster = (str(Path(sys.executable).with_name(name)) for name in ("dg", "dagster"))
    commands = (
        (dg_command, "list", "defs", "--json"),
        (dg_command, "check", "defs"),
        (dagster, "definitions", "validate"),  # finds workspace.yaml
    )
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda command: place.run(*command), commands))
    listed = json.loads(outputs[0])
    assert {asset["asset_key"] for asset in listed["assets"]} == {"faces", *profile("smoke").graph().names}
    assert [job["name"] for job in listed["jobs"]] == ["discover_job", "refresh_job"]


def test_dg_launch_computes_one_partition_of_the_same_lake(place: Any, run_place: Any, digests: Any) -> None:
    place.dg("launch", "--assets", "landmarks", "--partition", "shard-00000")
    plan = json.loads(place.orchard("plan", "landmarks", "--json"))
    assert plan["stages"]["landmarks"]["shards"] == ["shard-00001", "shard-00002"]
    assert plan["stages"]["landmarks"]["stale_rows"] == 8
    assert digests(place, "landmarks")["shard-00000"] == digests(run_place, "landmarks")["shard-00000"]
    with opened(place.home) as instance:
        found = statuses(instance, place.lake)
    assert found["landmarks", "shard-00000"] is StaleStatus.FRESH
    assert found["landmarks", "shard-00001"] is StaleStatus.MISSING


def test_a_shard_that_the_lake_does_not_have_is_refused(place: Any) -> None:
    with opened(place.home) as instance:
        instance.add_dynamic_partitions("shards", ["shard-09999"])
        result = build_definitions(place.lake.uri, "smoke", "cpu").resolve_implicit_global_asset_job_def()
        done = result.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("masks")],
            partition_key="shard-09999",
            raise_on_error=False,
        )
        [failure] = [event for event in done.all_events if event.is_step_failure]
        assert "the lake has no shard shard-09999" in str(failure.step_failure_data.error)
        register_partitions(instance, place.lake)
        assert "shard-09999" not in instance.get_dynamic_partitions("shards")


def test_what_orchard_run_computed_is_fresh_to_dagster(run_place: Any) -> None:
    with opened(run_place.home) as instance:
        assert of_stages(statuses(instance, run_place.lake), StaleStatus.FRESH) == ALL_OF_THEM
        assert report_versions(instance, run_place.lake, profile("smoke").graph()) == 0


def test_every_asset_of_a_finished_lake_is_fresh_to_dagster(
    smoke_lake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    graph = profile("smoke").graph()
    assert sync_instance(smoke_lake.lake, graph)
    with opened(tmp_path / "home") as instance:
        found = statuses(instance, smoke_lake.lake)
        assert {key for key, status in found.items() if status is not StaleStatus.FRESH} == set()
        assert {name for name, _ in found} == {"faces", *graph.names}
        assert report_versions(instance, smoke_lake.lake, graph) == 0


@pytest.fixture(scope="module")
def grown(make_place: Callable[[str], Any]) -> Any:
    """A finished place whose photographs then changed: one mirrored, one re-tagged, one added."""
    place = make_place("grown")
    place.orchard("run", *STAGES)
    photos = sorted(place.photos.rglob("*.jpg"))
    mirror(photos[0])
    # the bytes change and no pixel does: what is computed from it comes out the same
    photos[-1].write_bytes(photos[-1].read_bytes() + b"a phone's trailing note")
    mirror(photos[5], photos[5].with_name("added.jpg"))
    return place


def mirror(path: Path, to: Path | None = None) -> None:
    """The same photograph, mirrored: another picture of a face."""
    with Image.open(path) as picture:
        mirrored = np.asarray(picture)[:, ::-1]
    Image.fromarray(np.ascontiguousarray(mirrored)).save(to or path, quality=95)


def row_states(lake: Lake, stage: str) -> dict[str, tuple[bytes, bytes]]:
    """Fingerprint and digest of every row."""
    names = [f"{stage}_state.fingerprint", f"{stage}_state.digest"]
    rows = lake.faces.snapshot().scan(["image_id", *names]).to_pylist()
    return {row["image_id"]: (row[names[0]], row[names[1]]) for row in rows}


def test_the_refresh_job_computes_only_new_and_changed_photographs(grown: Any) -> None:
    before = {stage: row_states(grown.lake, stage) for stage in STAGES}
    config = {"ops": {"refresh_lake": {"config": {"stages": list(STAGES)}}}}
    grown.dg("launch", "--job", "refresh_job", "--config-json", json.dumps(config))
    with opened(grown.home) as instance:
        [run] = instance.get_runs(dg.RunsFilter(job_name="refresh_job"))
        assert run.status is dg.DagsterRunStatus.SUCCESS
        [output] = [
            entry.dagster_event.step_output_data
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event and entry.dagster_event.is_successful_output
        ]
        told: dict[str, Any] = {name: value.value for name, value in output.metadata.items()}
        # the iris is read from the mesh alone, and that of the re-tagged photograph stayed the same
        assert told["computed_rows"] == {"landmarks": 3, "iris": 2, "masks": 3}
        [report] = told["ingested"].values()
        assert (report["added"], report["replaced"], report["unchanged"]) == (1, 2, 10)
        assert "shard-00003" in instance.get_dynamic_partitions("shards")
        found = statuses(instance, grown.lake)
    for stage in STAGES:
        after = row_states(grown.lake, stage)
        new = set(after) - set(before[stage])
        changed = {name for name, state in before[stage].items() if after[name] != state}
        moved = {name for name, (_, digest) in before[stage].items() if after[name][1] != digest}
        assert len(new) == 1
        retagged = set() if stage == "iris" else {"w000003/0003_01"}
        assert changed == {"w000000/0001_01"} | retagged
        assert moved == {"w000000/0001_01"}
    wanted = ALL_OF_THEM | {(stage, "shard-00003") for stage in ("faces", *STAGES)}
    assert of_stages(found, StaleStatus.FRESH) == wanted


def test_a_changed_photograph_is_stale_to_dagster_until_it_is_computed(
    grown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follows the refresh; here the ingest alone tells Dagster, and `orchard run` afterwards."""
    mirror(grown.photos / "w000001" / "0002_01.jpg")
    grown.orchard("ingest", str(grown.photos), "--shard-size", "4")
    with opened(grown.home) as instance:
        found = statuses(instance, grown.lake)
    stale = of_stages(found, StaleStatus.STALE)
    # one step at a time: `iris` has only `landmarks` above it
    assert stale == {("landmarks", "shard-00001"), ("masks", "shard-00001")}
    grown.orchard("run", *STAGES)
    with opened(grown.home) as instance:
        assert of_stages(statuses(instance, grown.lake), StaleStatus.STALE) == set()
