"""`orchard ui` on PostgreSQL: webserver, daemon and runs share a real database, without any SQLite file."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.stage import StageGraph
from benches.scale_daemon import backfill, free_port, webserver
from pipeline.dagster_home import open_instance
from pipeline.dagster_storage import history_size
from pipeline.dagster_sync import make_ready, report_versions
from pipeline.options import project_root
from pipeline.profiles import profile
from resources.lake.errors import LakeError

pytestmark = pytest.mark.timeout(900)
STAGE = "landmarks"
ONE = "shard-00000"
TWO: list[str] = ["shard-00001", "shard-00002"]
RUN_SECONDS = 400
LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"
VERSIONS = """
query($key: AssetKeyInput!, $partitions: [String!]!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      latestMaterializationByPartition(partitions: $partitions) { partition tags { key value } }
      staleStatusByPartition(partitions: $partitions)
    }
  }
}
"""


@pytest.fixture(scope="module")
def place(make_place: Any, make_database: Callable[[str], str]) -> Any:
    url = make_database("dagster")
    return dataclasses.replace(make_place("postgres"), more_settings={"DAGSTER_POSTGRES_URL": url})


@pytest.fixture(scope="module")
def ask(place: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """GraphQL of an `orchard ui` that has done one partition, and then two by a backfill."""
    log = tmp_path_factory.mktemp("postgres_log") / "log.txt"
    port = free_port()
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)]
    environment = {**place.environment, "PYTHONPATH": str(project_root())}
    with webserver(command, environment, port, log) as (graphql, processes):
        assert "Dagster's runs and events: PostgreSQL, dagster at " in log.read_text()
        selector = {
            "repositoryName": "__repository__",
            "repositoryLocationName": "pipeline.definitions",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [STAGE]}],
        }
        tags = [{"key": "dagster/partition", "value": ONE}]
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}
        launched = graphql(LAUNCH, {"params": params})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        found = backfill(graphql, STAGE, TWO)
        assert (found["shards"], found["runs"]) == (2, 2)
        deadline = time.monotonic() + RUN_SECONDS
        while statuses(graphql)[launched["run"]["runId"]] != "SUCCESS":
            assert time.monotonic() < deadline, statuses(graphql)
            time.sleep(0.5)
        yield graphql
    assert "secret" not in log.read_text(), "the password of the database"
    assert processes.peak_bytes > 10**8
    assert processes.cpu_seconds > 1


def statuses(graphql: Callable[..., dict[str, Any]]) -> dict[str, str]:
    return {run["runId"]: run["status"] for run in graphql(RUNS)["runsOrError"]["results"]}


def test_runs_through_the_webserver_leave_the_lakes_versions_in_the_database(
    ask: Callable[..., dict[str, Any]], place: Any, digests: Any
) -> None:
    assert list(statuses(ask).values()) == ["SUCCESS"] * 3
    asset = ask(VERSIONS, {"key": {"path": [STAGE]}, "partitions": [ONE, *TWO]})["assetNodeOrError"]
    versions = {
        event["partition"]: {tag["key"]: tag["value"] for tag in event["tags"]}["dagster/data_version"]
        for event in asset["latestMaterializationByPartition"]
    }
    assert versions == digests(place, STAGE)
    assert set(versions) == {ONE, *TWO}
    assert asset["staleStatusByPartition"] == ["FRESH"] * 3


@pytest.fixture
def instance(
    ask: Callable[..., dict[str, Any]], place: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    for name, value in place.settings.items():
        monkeypatch.setenv(name, value)
    with open_instance(place.lake) as opened:
        assert opened is not None
        yield opened


def test_orchards_own_sync_reads_them_back_and_has_nothing_to_add(
    instance: dg.DagsterInstance, place: Any
) -> None:
    assert type(instance.run_storage).__name__ == "PostgresRunStorage"
    assert report_versions(instance, place.lake, profile("smoke").graph()) == 0
    found = history_size(instance)
    assert found.runs == 3
    assert found.events > 3 * 10
    assert found.history_bytes > 100_000
    assert not list(Path(place.home).rglob("*.db"))


def test_the_first_runs_of_a_new_instance_keep_to_the_pool_and_to_the_queue(
    instance: dg.DagsterInstance,
) -> None:
    """Three runs were asked for at once: at most two ran at a time, and one step of the pool."""
    steps, runs = [], []
    for record in instance.get_run_records():
        events = instance.all_logs(record.dagster_run.run_id)
        moments = {
            event.dagster_event.event_type_value: event.timestamp
            for event in events
            if event.dagster_event and event.dagster_event.step_key in (STAGE, None)
        }
        steps.append((moments["STEP_START"], moments["STEP_SUCCESS"]))
        runs.append((record.start_time, record.end_time))
    assert most_at_once(steps) == 1
    assert most_at_once(runs) <= 2


def most_at_once(spans: list[Any]) -> int:
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def test_the_lake_of_another_home_is_kept_off_the_database(
    ask: Any, place: Any, make_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(make_place("other"), more_settings=place.more_settings)
    for name, value in other.settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LakeError, match=r"PostgreSQL, dagster at .* belongs to another lake"):
        make_ready(other.lake, StageGraph(()), 1)
