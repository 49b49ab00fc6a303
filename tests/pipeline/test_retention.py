"""Pruning Dagster's history, in SQLite files and in a real PostgreSQL database."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from typer.testing import CliRunner

from assets.dagster_assets import build_assets, build_checks
from assets.stage import StageGraph
from benches.scale_lake import change_photograph, scale_graph, write_photographs
from pipeline.cli import app
from pipeline.dagster_home import open_instance
from pipeline.dagster_storage import is_sqlite, sqlite_files
from pipeline.dagster_sync import report_versions, sync_instance
from pipeline.execution import run_stages
from pipeline.retention import prune
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource

STAGE, SHARDS = "aesthetics", ("shard-00000", "shard-00001", "shard-00002")
ROWS, SHARD_SIZE = 12, 4


class History:
    """A lake, and Dagster's history of it: reports before and after a change, and three runs."""

    def __init__(self, lake: Lake, graph: StageGraph, instance: dg.DagsterInstance) -> None:
        self.lake, self.graph, self.instance = lake, graph, instance
        self.definitions = dg.Definitions(
            assets=build_assets(graph),
            asset_checks=build_checks(graph),
            resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
            executor=dg.in_process_executor,
        )
        self.runs = [self.run(shard) for shard in (SHARDS[0], SHARDS[0], SHARDS[1])]

    def run(self, shard: str) -> str:
        job = self.definitions.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=self.instance, partition_key=shard, asset_selection=[dg.AssetKey(STAGE)]
        )
        assert done.success
        return done.run_id

    def newest(self) -> dict[tuple[str, str | None], tuple[int, str, str]]:
        """Storage id, run and data version of the newest materialisation of every partition."""
        found = {}
        for asset in ("faces", STAGE):
            for record in reversed(
                self.instance.fetch_materializations(dg.AssetKey(asset), limit=99).records
            ):
                event = record.asset_materialization
                assert event is not None
                version = (event.tags or {})["dagster/data_version"]
                found[asset, event.partition] = (record.storage_id, record.run_id, version)
        return found

    def staleness(self) -> list[str]:
        resolver = CachingStaleStatusResolver(
            self.instance, self.definitions.resolve_asset_graph(), LoadingContextForTest(self.instance)
        )
        return [resolver.get_status(dg.AssetKey(STAGE), shard).value for shard in SHARDS]

    def checks(self) -> dict[tuple[str, str | None], int]:
        """Id of the newest outcome of every check of the stage, by partition."""
        found: dict[tuple[str, str | None], int] = {}
        storage = self.instance.event_log_storage
        for check in ("values_finite", "schema_as_declared"):
            key = dg.AssetCheckKey(dg.AssetKey(STAGE), check)
            for record in reversed(storage.get_asset_check_execution_history(key, limit=99)):
                found[check, record.partition] = record.id
        return found

    def run_ids(self) -> set[str]:
        return {run.run_id for run in self.instance.get_runs()}


@pytest.fixture
def make_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[History]]:
    @contextlib.contextmanager
    def make() -> Iterator[History]:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
        photographs, graph = tmp_path / "photos", StageGraph((scale_graph()[STAGE],))
        write_photographs(photographs, ROWS)
        lake = Lake.open(tmp_path / "lake", create=True)
        for change in (lambda folder: None, change_photograph):
            change(photographs)
            ingest(lake, photographs, layout="identity-folders", shard_size=SHARD_SIZE)
            graph.prepare(lake)
            run_stages(lake, graph, [STAGE], device="cpu")
            assert sync_instance(lake, graph)
        with open_instance(lake) as instance:
            assert instance is not None
            yield History(lake, graph, instance)

    return make


@pytest.fixture
def history(make_history: Callable[[], AbstractContextManager[History]]) -> Iterator[History]:
    with make_history() as made:
        yield made


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_old_runs_and_events_go_and_every_newest_result_stays(
    storage: str, make_history: Any, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if storage == "postgres":
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", request.getfixturevalue("make_database")("history"))
    with make_history() as history:
        assert is_sqlite(history.instance) == (storage == "sqlite")
        check_pruning(history, tmp_path / "home")


def check_pruning(history: History, home: Path) -> None:
    instance = history.instance
    newest, checks = history.newest(), history.checks()
    assert newest[STAGE, SHARDS[0]][1] == history.runs[1]
    assert newest[STAGE, SHARDS[2]][1] == "", "told by `orchard run`"
    assert history.staleness() == ["FRESH"] * 3

    nothing = prune(instance, datetime.now(UTC) - timedelta(days=1))
    assert (nothing.runs, nothing.kept_runs, nothing.runless_events, nothing.check_results) == (0, 0, 0, 0)
    assert history.run_ids() == set(history.runs)

    done = prune(instance, datetime.now(UTC) + timedelta(seconds=1), give_back=True)
    assert (done.runs, done.kept_runs) == (1, 2)
    assert history.run_ids() == set(history.runs[1:])
    assert done.runless_events >= 4, "the first shard was told twice of two assets, then came the runs"
    assert done.check_results > 0
    assert done.before.runs - done.after.runs == 1
    assert done.before.events > done.after.events
    assert done.before.history_bytes > done.after.history_bytes
    assert history.newest() == newest
    assert history.checks() == checks
    assert history.staleness() == ["FRESH"] * 3
    assert report_versions(instance, history.lake, history.graph) == 0
    again = prune(instance, datetime.now(UTC) + timedelta(seconds=1))
    assert (again.runs, again.runless_events, again.check_results) == (0, 0, 0)
    assert not list(home.rglob(f"*{history.runs[0]}*"))
    assert len(sqlite_files(home)) == (6 if is_sqlite(instance) else 0)


def test_runs_of_an_unfinished_backfill_and_the_newest_discovery_stay(history: History) -> None:
    from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

    instance = history.instance
    for name, status in (("open", BulkActionStatus.REQUESTED), ("ended", BulkActionStatus.COMPLETED_SUCCESS)):
        instance.add_backfill(
            PartitionBackfill(
                backfill_id=name, status=status, from_failure=False, tags={}, backfill_timestamp=1.0
            )
        )

    def ended(job: str, **tags: str) -> str:
        made = dg.JobDefinition(name=job, graph_def=dg.GraphDefinition(name=job))
        run = instance.create_run_for_job(
            made, tags={key.replace("_", "/"): value for key, value in tags.items()}
        )
        kind = dg.DagsterEventType.RUN_SUCCESS.value
        instance.report_dagster_event(dg.DagsterEvent(kind, job, message=""), run.run_id)
        return run.run_id

    discoveries = [ended("discover_job"), ended("discover_job")]
    of_open, of_ended = (ended("backfilled", dagster_backfill=name) for name in ("open", "ended"))
    prune(instance, datetime.now(UTC) + timedelta(seconds=1))
    assert history.run_ids() == {*history.runs[1:], discoveries[1], of_open}
    assert of_ended not in history.run_ids()


def test_the_command_prunes_and_says_what_it_did(history: History) -> None:
    done = CliRunner().invoke(
        app, ["dagster", "prune", "--lake", history.lake.uri, "--keep-days", "0", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["runs"], report["kept_runs"]) == (1, 2)
    assert report["after"]["events"] < report["before"]["events"]
    assert history.run_ids() == set(history.runs[1:])
