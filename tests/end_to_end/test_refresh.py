"""The refresh under the real daemon: photographs change, one shard's run is killed, everything runs at once.

`orchard ui` is shared with the other files of this folder, so shard-00001 and shard-00002 stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from pipeline.automation.settings import refreshed_stages
from pipeline.profiles import profile
from resources.lake.lake import Lake

pytestmark = pytest.mark.timeout(900)
CHANGED = "w000000/0001_01"
SHARD_OF_CHANGED, NEW_SHARD = "shard-00000", "shard-00003"
SHARDS = (SHARD_OF_CHANGED, "shard-00001", "shard-00002", NEW_SHARD)
ROW_STAGES = ("landmarks", "iris", "masks", "aesthetics", "identity_embedding", "condition", "latents")
STAGES = (*ROW_STAGES, "release")
PATIENCE = 400
"""Seconds for what takes ten on an idle machine."""

PLACE = {"repositoryName": "__repository__", "repositoryLocationName": "pipeline.definitions"}
SENSOR = "mutation($on: SensorSelector!) { startSensor(sensorSelector: $on) { __typename } }"
STATE = "query($on: SensorSelector!) { sensorOrError(sensorSelector: $on) { ... on Sensor { sensorState"
TICKS = STATE + " { id ticks(limit: 200) { status runIds skipReason error { message } } } } } }"
STOP = "mutation($id: String!) { stopSensor(id: $id) { __typename } }"
LAUNCH_JOB = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
LAUNCH_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { ... on LaunchBackfillSuccess { backfillId } }
}
"""
BACKFILL = (
    "query($id: String!) { partitionBackfillOrError(backfillId: $id) {... on PartitionBackfill {status}} }"
)
FRESHNESS = """
query($key: AssetKeyInput!, $partitions: [String!]!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { staleStatusByPartition(partitions: $partitions) }
  }
}
"""


@dataclass
class Daemon:
    """The running `orchard ui`, seen through its history and its lake."""

    server: Any
    instance: dg.DagsterInstance
    earlier: frozenset[str]

    def sensor(self, name: str) -> dict[str, Any]:
        found = self.server.graphql(TICKS, {"on": {**PLACE, "sensorName": name}})
        return found["sensorOrError"]["sensorState"]

    def start(self, name: str) -> None:
        started = self.server.graphql(SENSOR, {"on": {**PLACE, "sensorName": name}})
        assert started["startSensor"]["__typename"] == "Sensor", started

    def stop(self, name: str) -> None:
        self.server.graphql(STOP, {"id": self.sensor(name)["id"]})

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        """Runs since the start of the test, oldest first."""
        found = self.instance.get_runs(dg.RunsFilter(tags=tags))
        return [run for run in reversed(found) if run.run_id not in self.earlier]

    def runs_for(self, target: str) -> list[dg.DagsterRun]:
        return self.runs(**{"orchard/target": target})

    def is_settled(self) -> bool:
        """Whether the newest look of `stale_shards` found nothing stale."""
        runs = [run for run in self.runs() if run.job_name == "discover_job"]
        ticks = self.sensor("stale_shards")["ticks"]
        said = f"nothing was stale after refresh {runs[-1].run_id}" if runs else None
        done = all(run.is_finished for run in self.runs())
        return done and runs[-1].is_success and any(tick["skipReason"] == said for tick in ticks)

    def computed(self, runs: list[dg.DagsterRun]) -> Counter[tuple[str, str | None]]:
        """Rows that runs told Dagster to have computed, by stage and shard."""
        found: Counter[tuple[str, str | None]] = Counter()
        for run in runs:
            for entry in self.instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            ):
                assert entry.dagster_event is not None
                event = entry.dagster_event.step_materialization_data.materialization
                if "computed" in event.metadata:
                    key = event.asset_key.to_user_string(), event.partition
                    computed: Any = event.metadata["computed"].value
                    found[key] += computed
        return +found


@contextlib.contextmanager
def watched(server: Any) -> Iterator[Daemon]:
    with dg.DagsterInstance.from_config(str(server.place.home)) as instance:
        yield Daemon(server, instance, frozenset(run.run_id for run in instance.get_runs()))


def mirror(path: Path, to: Path | None = None) -> None:
    """The same photograph, mirrored; it appears at once, as a whole."""
    with Image.open(path) as picture:
        mirrored = np.asarray(picture)[:, ::-1]
    hidden = path.with_name(".part.jpg")
    Image.fromarray(np.ascontiguousarray(mirrored)).save(hidden, quality=95)
    hidden.rename(to or path)


def states(lake: Lake) -> dict[tuple[str, str], tuple[bytes, int, int]]:
    """Fingerprint, attempt and Lance row of every stage of every photograph."""
    parts = [f"{stage}_state.{part}" for stage in ROW_STAGES for part in ("fingerprint", "attempt")]
    rows = lake.faces.snapshot().dataset.to_table(["image_id", *parts], with_row_id=True).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows), "a photograph is in the lake twice"
    return {
        (stage, row["image_id"]): (
            row[f"{stage}_state.fingerprint"],
            row[f"{stage}_state.attempt"],
            row["_rowid"],
        )
        for row in rows
        for stage in ROW_STAGES
    }


def assert_fresh_everywhere(server: Any) -> None:
    """The planner and Dagster's own staleness agree that nothing is stale."""
    assert json.loads(server.place.orchard("plan", *STAGES, "--json"))["total_stale_rows"] == 0
    for stage in ("faces", *ROW_STAGES):
        asked = {"key": {"path": [stage]}, "partitions": list(SHARDS)}
        found = server.graphql(FRESHNESS, asked)["assetNodeOrError"]
        assert found["staleStatusByPartition"] == ["FRESH"] * len(SHARDS), stage
    asked = {"key": {"path": ["release"]}, "partitions": ["baseline"]}
    found = server.graphql(FRESHNESS, asked)["assetNodeOrError"]
    assert found["staleStatusByPartition"] == ["FRESH"]


def kill(daemon: Daemon, run: dg.DagsterRun) -> bool:
    """Kill the process of a run by SIGKILL once it has one."""
    for entry in daemon.instance.all_logs(run.run_id):
        found = re.search(r"Started process for run \(pid: (\d+)\)", entry.message)
        if found:
            os.kill(int(found[1]), signal.SIGKILL)
            return True
    return False


@pytest.fixture(scope="module")
def finished(server: Any) -> Any:
    """The shared server, everything that a refresh may compute computed."""
    graph = profile("smoke").graph()
    assert refreshed_stages(graph, ()) == list(STAGES), "training is not among what a refresh computes"
    server.place.orchard("run", *STAGES)
    return server


def test_three_ticks_after_a_change_the_lake_is_fresh_and_nothing_else_ran(
    finished: Any, patiently: Callable[..., Any]
) -> None:
    server, lake = finished, finished.place.lake
    before = states(lake)
    photos = server.place.photos
    for person in ("w000001", "w000002"):
        source = sorted((photos / person).glob("*.jpg"))[0]
        mirror(source, source.with_name("0099_01.jpg"))
    mirror(photos / f"{CHANGED}.jpg")
    with watched(server) as daemon:
        daemon.start("source_folders")
        first = patiently("run of the shard", lambda: daemon.runs_for(SHARD_OF_CHANGED), PATIENCE, pause=0.1)[
            0
        ]
        patiently("process of that run", lambda: kill(daemon, first), PATIENCE, pause=0.1)
        patiently("nothing stale any more", daemon.is_settled, PATIENCE)
        daemon.stop("source_folders")

        runs = {run.run_id: run for run in daemon.runs()}
        ended = [(run.tags.get("orchard/target", run.job_name), run.status.value) for run in runs.values()]
        assert sorted(ended) == [
            ("discover_job", "SUCCESS"),
            ("release", "SUCCESS"),
            (SHARD_OF_CHANGED, "FAILURE"),
            (SHARD_OF_CHANGED, "SUCCESS"),
            (NEW_SHARD, "SUCCESS"),
        ]
        ticks = [
            sorted(runs[run].tags["orchard/target"] for run in tick["runIds"])
            for tick in reversed(daemon.sensor("stale_shards")["ticks"])
            if tick["runIds"]
        ]
        assert ticks[-3:] == [[SHARD_OF_CHANGED, NEW_SHARD], [SHARD_OF_CHANGED], ["release"]]
        assert [tick for tick in daemon.sensor("stale_shards")["ticks"] if tick["error"]] == []
        [again, new] = [
            next(run for run in runs.values() if run.is_success and run.tags.get("orchard/target") == shard)
            for shard in (SHARD_OF_CHANGED, NEW_SHARD)
        ]
        assert again.tags["orchard/why"].startswith("landmarks: 1 input:faces; iris: follows")
        assert daemon.computed([new]) == {(stage, NEW_SHARD): 2 for stage in ROW_STAGES}
        assert daemon.computed([again]) == {(stage, SHARD_OF_CHANGED): 1 for stage in ROW_STAGES}

    after = states(lake)
    news = {"w000001/0099_01", "w000002/0099_01"}
    assert {image_id for _, image_id in after.keys() - before.keys()} == news
    moved = {key for key in before if after[key][0] != before[key][0]}
    assert moved == {(stage, CHANGED) for stage in ROW_STAGES}
    assert {attempt for _, attempt, _ in after.values()} == {1}
    assert_fresh_everywhere(server)


def test_two_refreshes_and_a_backfill_at_once_compute_every_row_once(
    finished: Any, patiently: Callable[..., Any]
) -> None:
    """Follows the test above. The daemon refreshes, `dg` refreshes on its own, a backfill runs."""
    server, lake = finished, finished.place.lake
    before = states(lake)
    mirror(server.place.photos / f"{CHANGED}.jpg")
    source = server.place.photos / "w000003" / "0001_01.jpg"
    mirror(source, source.with_name("0099_01.jpg"))
    with watched(server) as daemon:
        command = [str(Path(sys.executable).with_name("dg")), "launch", "--job", "refresh_job"]
        other = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=server.place.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            params = {"selector": {**PLACE, "jobName": "discover_job"}, "runConfigData": {}}
            for _ in range(2):
                found = server.graphql(LAUNCH_JOB, {"params": params})["launchRun"]
                assert found["__typename"] == "LaunchRunSuccess"
            params = {
                "assetSelection": [{"path": [name]} for name in ("faces", *ROW_STAGES[:3])],
                "partitionNames": [SHARD_OF_CHANGED, NEW_SHARD],
            }
            backfill = server.graphql(LAUNCH_BACKFILL, {"params": params})["launchPartitionBackfill"]
            _, errors = other.communicate(timeout=PATIENCE)
            assert other.returncode == 0, errors.decode()[-3000:]
        finally:
            other.kill()

        def backfill_ended() -> str | None:
            asked = {"id": backfill["backfillId"]}
            status = server.graphql(BACKFILL, asked)["partitionBackfillOrError"]["status"]
            return None if status in ("REQUESTED", "COMPLETING") else status

        assert patiently("end of the backfill", backfill_ended, PATIENCE) == "COMPLETED_SUCCESS"
        patiently("nothing stale any more", daemon.is_settled, PATIENCE)
        assert {run.status.value for run in daemon.runs()} == {"SUCCESS"}
        [alone] = [run for run in daemon.runs() if run.job_name == "refresh_job"]
        [output] = [
            event.step_output_data
            for entry in daemon.instance.all_logs(alone.run_id)
            if (event := entry.dagster_event) is not None and event.is_successful_output
        ]
        by_refresh: Any = output.metadata["computed_rows"].value
        by_runs = Counter(
            stage for (stage, _), count in daemon.computed(daemon.runs()).items() for _ in range(count)
        )

    after = states(lake)
    assert {image_id for _, image_id in after.keys() - before.keys()} == {"w000003/0099_01"}
    assert {key for key in before if after[key][0] != before[key][0]} == {
        (name, CHANGED) for name in ROW_STAGES
    }
    assert {stage: by_refresh[stage] + by_runs[stage] for stage in ROW_STAGES} == dict.fromkeys(ROW_STAGES, 2)
    assert {attempt for _, attempt, _ in after.values()} == {1}
    assert_fresh_everywhere(server)
