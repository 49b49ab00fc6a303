"""The daemon at work: a backfill of three stages over all shards, beside what `orchard run` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)
STAGES = ("landmarks", "iris", "masks")
SHARDS = ("shard-00000", "shard-00001", "shard-00002")
LAUNCH = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
LOOK = """
query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } runs { runId status } }
  }
}
"""


@pytest.fixture(scope="module")
def backfill(server: Any, patiently: Callable[..., Any]) -> dict[str, Any]:
    """An asset backfill, submitted as the UI does, after it came to an end."""
    params = {
        "assetSelection": [{"path": [name]} for name in STAGES],
        "partitionNames": list(SHARDS),
        "title": "three stages",
    }
    launched = server.graphql(LAUNCH, {"params": params})["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> dict[str, Any] | None:
        found = server.graphql(LOOK, {"id": launched["backfillId"]})["partitionBackfillOrError"]
        return found if found["status"] not in ("REQUESTED", "COMPLETING") else None

    return patiently("end of the backfill", ended, 700, pause=1)


def test_a_backfill_launches_one_run_for_each_shard_and_succeeds(backfill: dict[str, Any]) -> None:
    assert backfill["error"] is None
    assert backfill["status"] == "COMPLETED_SUCCESS"
    assert [run["status"] for run in backfill["runs"]] == ["SUCCESS"] * len(SHARDS)


@pytest.mark.parametrize("stage", ["faces", *STAGES])
def test_the_lake_is_the_one_that_orchard_run_gives(
    stage: str, backfill: dict[str, Any], server: Any, run_place: Any, digests: Any
) -> None:
    found = digests(server.place, stage)
    assert found == digests(run_place, stage)
    assert len(set(found.values())) == len(SHARDS)


@pytest.mark.parametrize("stage", ["faces", *STAGES])
def test_dagsters_data_versions_are_the_lakes_digests(
    stage: str, backfill: dict[str, Any], server: Any, digests: Any
) -> None:
    fields = """latestMaterializationByPartition(partitions: $partitions) { partition tags { key value } }
                staleStatusByPartition(partitions: $partitions)"""
    asset = server.asset(stage, fields)
    versions = {
        event["partition"]: {tag["key"]: tag["value"] for tag in event["tags"]}["dagster/data_version"]
        for event in asset["latestMaterializationByPartition"]
    }
    assert versions == digests(server.place, stage)
    assert asset["staleStatusByPartition"] == ["FRESH"] * len(SHARDS)


def test_nothing_is_left_to_report_after_runs_of_dagsters_own(backfill: dict[str, Any], server: Any) -> None:
    """Events that `orchard run` reports carry the very tags that Dagster's runs record."""
    import dagster as dg

    from pipeline.dagster_sync import report_versions
    from pipeline.profiles import profile

    with dg.DagsterInstance.from_config(str(server.place.home)) as instance:
        assert report_versions(instance, server.place.lake, profile("smoke").graph()) == 0
