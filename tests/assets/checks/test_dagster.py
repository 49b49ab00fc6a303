"""Checks as Dagster runs and shows them: behind a shard, alone, of a backfill, and from `orchard run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets.checks.catalogue import ACCOUNTING, checks_of
from assets.dagster_assets import build_assets, build_checks, register_partitions
from assets.stage import StageGraph
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource

SHARD = "shard-00001"
PLAUSIBLE = dg.AssetCheckKey(dg.AssetKey("landmarks"), "landmarks_plausible")


def out_of_the_picture(points: np.ndarray) -> np.ndarray:
    return points + 4000


def back_again(points: np.ndarray) -> np.ndarray:
    return points - 4000


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def materialise(
    graph: StageGraph,
    lake: Lake,
    instance: dg.DagsterInstance,
    selection: Any,
    shard: str | None = SHARD,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*build_assets(graph), *build_checks(graph)],
        selection=selection,
        # as the daemon and the UI tag runs; the argument `partition_key` refuses checks alone
        tags={"dagster/partition": shard} if shard else tags,
        instance=instance,
        resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    return {
        (item.asset_key.to_user_string(), item.check_name): item
        for item in result.get_asset_check_evaluations()
    }


def test_dagster_runs_the_checks_of_a_shard_behind_it_and_alone(lake, damage, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = damage.ids()[0]
    damage.values("landmarks_68", out_of_the_picture, [bad])
    result = materialise(graph, lake, instance, ["landmarks", "iris"])
    assert result.success, "an implausible row holds nothing back"
    found = evaluations(result)
    assert set(found) == {
        (stage, check.name) for stage in ("landmarks", "iris") for check in checks_of(graph, stage)
    }
    assert {item.partition for item in found.values()} == {SHARD}
    failed = [key for key, item in found.items() if not item.passed]
    assert ("landmarks", "landmarks_plausible") in failed
    seen = found["landmarks", "landmarks_plausible"]
    assert bad in str(seen.description)
    assert seen.severity is dg.AssetCheckSeverity.ERROR
    assert seen.metadata["implausible"].value == 1

    alone = dg.AssetSelection.checks(PLAUSIBLE)
    damage.values("landmarks_68", back_again, [bad])
    result = materialise(graph, lake, instance, alone)
    assert result.success
    assert [(key, item.passed) for key, item in evaluations(result).items()] == [
        (("landmarks", "landmarks_plausible"), True)
    ]
    assert not [event for event in result.all_events if event.is_step_materialization]


def test_checks_run_without_a_partition_look_at_every_shard(lake, damage, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = damage.ids()[0]
    damage.values("landmarks_68", out_of_the_picture, [bad])
    alone = dg.AssetSelection.checks(PLAUSIBLE)
    # Dagster looks for the newest materialisation of what is checked: there must be one
    assert materialise(graph, lake, instance, ["landmarks"], "shard-00002").success
    result = materialise(graph, lake, instance, alone, shard=None)
    assert result.success
    [summed] = evaluations(result).values()
    assert not summed.passed
    assert summed.metadata["failed_shards"].value == [SHARD]
    assert f"1 of 3 shards failed: {SHARD}" in str(summed.description)
    assert bad in str(summed.description)
    assert told(instance) == (False, [SHARD], 3)
    assert materialise(graph, lake, instance, alone, shard=None).success, "as often as one likes"


def test_a_run_of_a_backfill_checks_its_own_shard(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    ends = {f"dagster/asset_partition_range_{end}": SHARD for end in ("start", "end")}
    result = materialise(graph, lake, instance, ["landmarks"], shard=None, tags=ends)
    assert result.success
    found = evaluations(result)
    assert set(found) == {("landmarks", check.name) for check in checks_of(graph, "landmarks")}
    # what the asset's own step yields is dated by Dagster, which knows no partition of a range
    assert {item.partition for (_, name), item in found.items() if name != ACCOUNTING.name} == {SHARD}


def test_a_failed_blocking_check_holds_back_what_is_below(lake, damage, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = damage.ids()[0]
    damage.rewrite("faces", lambda rows: damage.put(rows, "face_score", "image_id", {bad: float("nan")}))
    result = materialise(graph, lake, instance, ["landmarks", "iris"])
    assert not result.success
    found = evaluations(result)
    assert not found["landmarks", "values_finite"].passed
    assert ("iris", "rows_accounted") not in found, "iris did not start"


def test_what_orchard_run_reports_includes_the_checks(lake, damage, graph, instance) -> None:
    """Time and again: Dagster refuses a second outcome of a partition that no run made."""
    from pipeline.dagster_sync import report_versions

    small = StageGraph((graph["landmarks"],))
    bad, other = damage.ids()[0], damage.ids("shard-00000")[0]
    damage.values("landmarks_68", out_of_the_picture, [bad])
    register_partitions(instance, lake)
    assert report_versions(instance, lake, small, checked=True) == 6
    assert told(instance) == (False, [SHARD], 3)
    assert report_versions(instance, lake, small, checked=True) == 0
    assert len(instance.event_log_storage.get_asset_check_execution_history(PLAUSIBLE, limit=10)) == 1

    damage.state("landmarks", [other], digest=bytes(16))
    assert report_versions(instance, lake, small, checked=True) == 1
    assert told(instance) == (False, [SHARD], 2), "another shard passed, the failed one was looked at again"
    damage.values("landmarks_68", back_again, [bad])
    damage.state("landmarks", [other], digest=bytes(15) + b"1")
    assert report_versions(instance, lake, small, checked=True) == 1
    assert told(instance) == (True, [], 2)


def told(instance: dg.DagsterInstance) -> tuple[bool, Any, Any]:
    """Whether the newest outcome passed, which shards failed, and how many were looked at."""
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([PLAUSIBLE])[PLAUSIBLE]
    assert record.evaluation
    assert record.partition is None
    figures = record.evaluation.metadata
    return record.evaluation.passed, figures["failed_shards"].value, figures["shards"].value


def test_any_check_may_be_run_alone_but_row_accounting(graph) -> None:
    specs = {spec.key: spec for item in build_checks(graph) for spec in item.check_specs}
    declared = {(stage, check.name) for stage in ("faces", *graph.names) for check in checks_of(graph, stage)}
    assert {(key.asset_key.to_user_string(), key.name) for key in specs} == {
        key for key in declared if key[1] != "rows_accounted"
    }
    assert all(item.can_subset for item in build_checks(graph))
    for spec in specs.values():
        assert spec.description
        assert ("Not blocking" not in spec.description) == spec.blocking
