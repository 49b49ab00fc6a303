"""The stages as Dagster assets, on a real instance and a real lake."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.dagster_assets import SHARDS, build_assets, register_partitions
from assets.planner import Planner
from assets.runner import run_shard
from assets.stage import RowStage, StageGraph
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance


def materialise(
    graph: StageGraph, lake: Lake, instance: dg.DagsterInstance, names: list[str], shard: str | None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        build_assets(graph),
        selection=names,
        partition_key=shard,
        instance=instance,
        resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
        raise_on_error=False,
    )


def newest(instance: dg.DagsterInstance, name: str, shard: str | None) -> dg.AssetMaterialization:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(name), asset_partitions=[shard] if shard else None),
        limit=1,
    ).records
    found = records[0].asset_materialization
    assert found is not None
    return found


def test_shards_become_partitions_once(lake, graph, instance) -> None:
    assert register_partitions(instance, lake) == {"faces": ["shard-00000", "shard-00001", "shard-00002"]}
    assert register_partitions(instance, lake) == {}
    assert len(instance.get_dynamic_partitions("shards")) == 3


def test_a_partition_carries_the_lakes_digest_figures_and_a_preview(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    result = materialise(graph, lake, instance, ["faces", "brightness", "band"], "shard-00001")
    assert result.success
    table = Planner(lake, graph).table("faces")
    found = newest(instance, "brightness", "shard-00001")
    assert (found.tags or {})["dagster/data_version"] == table.shard_digests("brightness")["shard-00001"]
    assert (found.tags or {})["dagster/code_version"] == "1"
    assert found.metadata["ok"].value == 4
    assert found.metadata["computed"].value == 4
    preview = str(found.metadata["preview"].value)
    picture = base64.b64decode(preview.split("base64,")[1].rstrip(")"))
    assert picture.startswith(b"\x89PNG")
    checks = [
        check for check in result.get_asset_check_evaluations() if check.asset_key == dg.AssetKey("band")
    ]
    assert [check.passed for check in checks] == [True]


def test_materialising_again_computes_nothing_and_keeps_the_version(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    materialise(graph, lake, instance, ["brightness"], "shard-00000")
    first = newest(instance, "brightness", "shard-00000")
    materialise(graph, lake, instance, ["brightness"], "shard-00000")
    second = newest(instance, "brightness", "shard-00000")
    assert second.metadata["computed"].value == 0
    assert (first.tags or {})["dagster/data_version"] == (second.tags or {})["dagster/data_version"]


def test_dagster_and_the_runner_give_the_same_lake(lake, graph, instance, run_all) -> None:
    register_partitions(instance, lake)
    for shard in Planner(lake, graph).snapshot("faces").shards():
        assert materialise(graph, lake, instance, ["brightness", "band", "caption"], shard).success
    assert materialise(graph, lake, instance, ["total"], None).success
    assert run_all(lake, graph) == {"brightness": 0, "band": 0, "caption": 0, "total": 0}


def test_a_shard_with_pending_rows_fails_its_blocking_check(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    result = materialise(graph, lake, instance, ["band", "caption"], "shard-00000")
    assert not result.success
    evaluations = {
        check.asset_key.to_user_string(): check.passed for check in result.get_asset_check_evaluations()
    }
    assert evaluations == {"band": False}


def test_the_faces_asset_reads_changed_source_files_again(lake, graph, instance, photo_root, repaint) -> None:
    register_partitions(instance, lake)
    materialise(graph, lake, instance, ["faces"], "shard-00000")
    before = newest(instance, "faces", "shard-00000")
    repaint(photo_root / "p0" / "00.png", 211)
    materialise(graph, lake, instance, ["faces"], "shard-00000")
    after = newest(instance, "faces", "shard-00000")
    assert after.metadata["replaced"].value == 1
    assert (before.tags or {})["dagster/data_version"] != (after.tags or {})["dagster/data_version"]


def test_an_artifact_that_waits_fails_and_says_what_for(lake, graph, instance) -> None:
    result = materialise(graph, lake, instance, ["total"], None)
    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    assert "waits for band" in str(failures[0].step_failure_data.error)


def test_quarantined_rows_are_in_the_metadata(lake, graph, instance, photo_root, repaint) -> None:
    repaint(photo_root / "p0" / "01.png", 0)
    ingest(lake, photo_root)
    register_partitions(instance, lake)
    assert materialise(graph, lake, instance, ["brightness"], "shard-00000").success
    found = newest(instance, "brightness", "shard-00000")
    assert (found.metadata["ok"].value, found.metadata["quarantined"].value) == (3, 1)
    assert found.metadata["reasons"].value == {"low_quality": 1}


def test_every_stage_is_an_asset_with_its_partitions_and_code_version(graph) -> None:
    by_name = {asset.key.to_user_string(): asset for asset in build_assets(graph)}
    assert list(by_name) == ["faces", "brightness", "band", "caption", "total"]
    assert by_name["band"].partitions_def == SHARDS["faces"]
    assert by_name["total"].partitions_def is None
    assert by_name["band"].code_versions_by_key[dg.AssetKey("band")] == "1"
    accounted = {name for name, asset in by_name.items() for spec in asset.check_specs if spec.blocking}
    assert accounted == {"faces", "brightness", "band", "caption"}


def test_a_run_beside_the_runner_loses_nothing(lake, graph, instance) -> None:
    """`orchard run` finished half of a shard's stages; Dagster goes on from there."""
    register_partitions(instance, lake)
    stage = graph["brightness"]
    assert isinstance(stage, RowStage)
    run_shard(lake, graph, stage, "shard-00002", device="cpu")
    assert materialise(graph, lake, instance, ["brightness", "band"], "shard-00002").success
    assert newest(instance, "brightness", "shard-00002").metadata["computed"].value == 0
    assert newest(instance, "band", "shard-00002").metadata["computed"].value == 4
