"""Sensors and schedule of a refresh, evaluated by hand against a real Dagster instance."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.dagster_assets import build_assets, register_partitions
from pipeline.automation.discovery import discover, discover_job
from pipeline.automation.sensors import StaleCursor, build_automation
from pipeline.automation.settings import AutomationSettings
from pipeline.dagster_home import open_instance
from pipeline.execution import run_stages
from resources.lake.resource import LakeResource

log = logging.getLogger("refresh")
ROWS = ("aesthetics", "identity_embedding", "masks", "latents")
SHARDS = ("shard-00000", "shard-00001", "shard-00002")


class Ticks:
    """Sensors and schedule of the small orchard, evaluated against a real instance by hand."""

    def __init__(self, orchard: Any, instance: dg.DagsterInstance) -> None:
        self.orchard, self.instance = orchard, instance
        settings = AutomationSettings(seconds=1, stages=(*ROWS, "release"))
        automation = build_automation(orchard.graph, settings)
        self.lake = LakeResource(uri=orchard.lake.uri, device="cpu")
        self.definitions = dg.Definitions(
            assets=build_assets(orchard.graph),
            jobs=[discover_job],
            schedules=automation.schedules,
            sensors=automation.sensors,
            resources={"lake": self.lake},
            executor=dg.in_process_executor,
        )
        self.cursors: dict[str, str | None] = {}

    def tick(self, name: str) -> Any:
        """Evaluate a sensor once, with the cursor that it left."""
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursors.get(name),
            definitions=self.definitions,
            sensor_name=name,
            resources={"lake": self.lake},
        )
        found = self.definitions.resolve_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = found.cursor or self.cursors.get(name)
        return found

    def discovered(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS) -> str:
        """A run of `discover_job` in Dagster's history; the ingest itself is done by the test."""
        run = self.instance.create_run_for_job(
            self.definitions.resolve_job_def("discover_job"), status=dg.DagsterRunStatus.NOT_STARTED
        )
        return self.ended(run, status)

    def ended(self, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> str:
        if status is dg.DagsterRunStatus.SUCCESS:
            event = dg.DagsterEventType.RUN_SUCCESS
        elif status is dg.DagsterRunStatus.FAILURE:
            event = dg.DagsterEventType.RUN_FAILURE
        else:
            event = dg.DagsterEventType.RUN_START
        self.instance.report_dagster_event(dg.DagsterEvent(event.value, run.job_name, message=""), run.run_id)
        return run.run_id

    def launched(self, request: dg.RunRequest) -> dg.DagsterRun:
        """The run that a daemon would make of a request, started."""
        run = self.instance.create_run_for_job(
            self.definitions.resolve_implicit_global_asset_job_def(),
            tags=dict(request.tags),
            asset_selection=frozenset(request.asset_selection or ()),
        )
        self.ended(run, dg.DagsterRunStatus.STARTED)
        return run


@pytest.fixture
def ticks(orchard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with open_instance(orchard.lake) as instance:
        assert instance is not None
        yield Ticks(orchard, instance)


def asked(found: Any) -> list[tuple[str, str | None]]:
    return [(request.tags["orchard/target"], request.partition_key) for request in found.run_requests or ()]


def test_stale_shards_launches_each_once_tries_again_and_falls_asleep(ticks: Ticks) -> None:
    assert "no discover_job has succeeded yet" in ticks.tick("stale_shards").skip_message
    refresh = ticks.discovered()
    found = ticks.tick("stale_shards")
    assert asked(found) == [(shard, shard) for shard in SHARDS]
    assert len({request.run_key for request in found.run_requests}) == 3
    assert {request.tags["orchard/refresh"] for request in found.run_requests} == {refresh}
    runs = {request.partition_key: ticks.launched(request) for request in found.run_requests}
    assert asked(ticks.tick("stale_shards")) == [], "all three are under way"
    assert "3 runs of refresh" in ticks.tick("stale_shards").skip_message

    ticks.orchard.run(*ROWS)  # all runs did their work, but for one that died before it did any
    for shard in SHARDS:
        ok = shard != "shard-00001"
        ticks.ended(runs[shard], dg.DagsterRunStatus.SUCCESS if ok else dg.DagsterRunStatus.FAILURE)
    run_stages(ticks.orchard.lake, ticks.orchard.graph, ["masks"], shards=["shard-00001"], device="cpu")
    fail_again(ticks, "shard-00001")
    assert asked(ticks.tick("stale_shards")) == [("release", "baseline")]

    ticks.orchard.run("release")
    found = ticks.tick("stale_shards")
    assert (asked(found), found.skip_message) == ([], "nothing is stale")
    assert ticks.tick("stale_shards").skip_message == f"nothing was stale after refresh {refresh}"
    cursor = StaleCursor.model_validate_json(str(ticks.cursors["stale_shards"]))
    assert cursor == StaleCursor(finished=refresh)


def fail_again(ticks: Ticks, shard: str) -> None:
    """A photograph of the shard changes and its run fails twice; after the first it is tried at once."""
    path = ticks.orchard.photos / "p2" / "00.png"
    path.write_bytes(path.read_bytes() + b"a phone's note")
    discover(ticks.orchard.lake, log, prune=False)
    for _ in range(2):
        deadline = time.monotonic() + 20
        while not (found := ticks.tick("stale_shards")).run_requests:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert asked(found) == [(shard, shard)]
        ticks.ended(ticks.launched(found.run_requests[0]), dg.DagsterRunStatus.FAILURE)
    assert asked(ticks.tick("stale_shards")) == [], "after the second failure in a row there is a pause"
    ticks.orchard.run(*ROWS)


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": "shard-00000"},
        {
            "dagster/asset_partition_range_start": "shard-00000",
            "dagster/asset_partition_range_end": "shard-00000",
            "dagster/backfill": "abc",
        },
    ],
    ids=["materialised in the UI", "run of a backfill"],
)
def test_what_others_run_is_left_to_them(ticks: Ticks, tags: dict[str, str]) -> None:
    ticks.discovered()
    register_partitions(ticks.instance, ticks.orchard.lake)
    somebody = ticks.instance.create_run_for_job(
        ticks.definitions.resolve_implicit_global_asset_job_def(),
        tags=tags,
        asset_selection=frozenset([dg.AssetKey("masks")]),
    )
    ticks.ended(somebody, dg.DagsterRunStatus.STARTED)
    assert asked(ticks.tick("stale_shards")) == [(shard, shard) for shard in SHARDS[1:]]
    ticks.discovered(dg.DagsterRunStatus.STARTED)
    assert "is reading the source folders" in ticks.tick("stale_shards").skip_message


def test_a_run_whose_process_is_gone_holds_nothing_up(ticks: Ticks) -> None:
    """After a power cut Dagster has runs that are started and will never end."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead_discovery = ticks.discovered(dg.DagsterRunStatus.STARTED)
    tell_process(ticks, dead_discovery, gone.pid)
    assert asked_for_discovery(ticks)[1] == 1
    ticks.discovered()
    requests = ticks.tick("stale_shards").run_requests
    runs = [ticks.launched(request) for request in requests]
    tell_process(ticks, runs[0].run_id, os.getpid())
    tell_process(ticks, runs[1].run_id, gone.pid)
    found = ticks.tick("stale_shards")
    assert asked(found) == [(SHARDS[1], SHARDS[1])]
    for run_id in (dead_discovery, runs[1].run_id):
        run = ticks.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE


def tell_process(ticks: Ticks, run_id: str, pid: int) -> None:
    run = ticks.instance.get_run_by_id(run_id)
    ticks.instance.report_engine_event(f"Started process for run (pid: {pid}).", run)


def test_the_source_sensor_asks_once_for_a_settled_change_and_again_after_a_failure(ticks: Ticks) -> None:
    assert asked_for_discovery(ticks) == [0, 1, 0, 0]
    (ticks.orchard.photos / "p1" / "new.png").write_bytes(b"whatever")
    assert asked_for_discovery(ticks) == [0, 1, 0, 0]
    shutil.move(ticks.orchard.photos, ticks.orchard.photos.with_name("unmounted"))
    assert "missing or empty" in ticks.tick("source_folders").skip_message
    ticks.orchard.photos.mkdir()
    assert asked_for_discovery(ticks) == [0, 0, 0, 0]
    ticks.orchard.photos.rmdir()
    shutil.move(ticks.orchard.photos.with_name("unmounted"), ticks.orchard.photos)
    assert asked_for_discovery(ticks) == [0, 0, 0, 0]
    ticks.discovered(dg.DagsterRunStatus.FAILURE)
    [request] = ticks.tick("source_folders").run_requests
    assert request.tags["orchard/why"] == "the last discovery failed"
    ticks.discovered(dg.DagsterRunStatus.STARTED)
    (ticks.orchard.photos / "p1" / "other.png").write_bytes(b"whatever")
    assert asked_for_discovery(ticks) == [0, 0, 0, 0], "one is under way"


def asked_for_discovery(ticks: Ticks) -> list[int]:
    return [len(ticks.tick("source_folders").run_requests or ()) for _ in range(4)]


def test_the_schedule_asks_for_a_discovery_unless_one_is_under_way(ticks: Ticks) -> None:
    schedule = ticks.definitions.resolve_schedule_def("refresh_schedule")
    assert schedule.cron_schedule == "0 * * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED

    def tick() -> Any:
        from datetime import UTC, datetime

        when = datetime(2030, 1, 1, 5, tzinfo=UTC)
        return schedule.evaluate_tick(
            dg.build_schedule_context(instance=ticks.instance, scheduled_execution_time=when)
        )

    [request] = tick().run_requests
    assert request.run_key == "2030-01-01T05:00:00+00:00"
    ticks.discovered(dg.DagsterRunStatus.STARTED)
    assert "is still reading" in tick().skip_message


def test_a_run_that_died_before_its_event_is_told_to_dagster_when_the_refresh_ends(ticks: Ticks) -> None:
    ticks.orchard.run(*ROWS, "release")
    ticks.discovered()
    assert ticks.instance.fetch_materializations(dg.AssetKey("release"), limit=1).records == []
    assert ticks.tick("stale_shards").skip_message == "nothing is stale"
    for stage in (*ROWS, "release"):
        records = ticks.instance.fetch_materializations(dg.AssetKey(stage), limit=9).records
        assert len(records) == (1 if stage == "release" else len(SHARDS))
    assert json.loads(str(ticks.cursors["stale_shards"]))["finished"]
