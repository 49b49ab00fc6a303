"""Backfills through Dagster's real webserver and daemon, and what all their processes take."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.commands.ui import LOOPBACK
from pipeline.options import project_root

Ask = Callable[..., dict[str, Any]]
START_SECONDS, RUN_SECONDS, END_SECONDS = 600.0, 6 * 3600.0, 30.0
HEALTH = "{ instance { daemonHealth { allDaemonStatuses { healthy required } } } }"
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
    ... on PartitionBackfill { status runs { status startTime endTime } }
  }
}
"""


class Processes:
    """Processor time and memory of a process with all its children, sampled while they live."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._leader, self._cpu = psutil.Process(pid), dict[int, float]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._ended.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """Of all processes that were seen, each up to its last sample."""
        return sum(self._cpu.values())

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            held = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [self._leader, *self._leader.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        held += process.memory_info().rss
                        self._cpu[process.pid] = sum(process.cpu_times()[:2])
            self.peak_bytes = max(self.peak_bytes, held)


def run_backfill(home: Path, lake_uri: str, asset: str, shards: list[str]) -> dict[str, Any]:
    """Start webserver and daemon over the bench's definitions, backfill `shards` of one asset, end them."""
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-m", "benches.scale_definitions"]
    command += ["-d", str(project_root()), "-h", LOOPBACK, "-p", str(port)]
    environment = {**os.environ, "DAGSTER_HOME": str(home), "ORCHARD_LAKE": lake_uri}
    started = time.monotonic()
    with webserver(command, environment, port, home / "dagster.log") as (ask, processes):
        ready = time.monotonic()
        found = backfill(ask, asset, shards)
    return {
        **found,
        "start_seconds": round(ready - started, 1),
        "cpu_seconds_of_all_processes": round(processes.cpu_seconds, 1),
        "peak_rss_mb_of_all_processes": processes.peak_bytes // 1_000_000,
    }


def backfill(ask: Ask, asset: str, shards: list[str]) -> dict[str, Any]:
    """Submit a backfill as the UI does and wait for its end. Raises RuntimeError unless all runs succeed."""
    started = time.monotonic()
    params = {"assetSelection": [{"path": [asset]}], "partitionNames": shards, "title": "benches.scale"}
    launched = ask(LAUNCH, {"params": params})["launchPartitionBackfill"]
    if launched["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(f"the backfill was not accepted: {launched}")
    while True:
        found = ask(LOOK, {"id": launched["backfillId"]})["partitionBackfillOrError"]
        if found["status"] not in ("REQUESTED", "COMPLETING"):
            break
        if time.monotonic() - started > RUN_SECONDS:
            raise RuntimeError(f"the backfill did not end in {RUN_SECONDS:g} s: {found}")
        time.sleep(0.5)
    seconds, runs = time.monotonic() - started, found["runs"]
    if found["status"] != "COMPLETED_SUCCESS" or len(runs) != len(shards):
        raise RuntimeError(f"the backfill ended as {found}")
    lasted = sorted(run["endTime"] - run["startTime"] for run in runs)
    return {
        "shards": len(shards),
        "runs": len(runs),
        "seconds": round(seconds, 1),
        "seconds_per_shard": round(seconds / len(shards), 2),
        "median_seconds_of_a_run": round(lasted[len(lasted) // 2], 2),
    }


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def webserver(
    command: list[str], environment: dict[str, str], port: int, log: Path
) -> Iterator[tuple[Ask, Processes]]:
    """Run a command that starts webserver and daemon; ended with all its children.

    Gives a function that asks the webserver by GraphQL, and what all processes take.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    processes = Processes(process.pid)

    def ask(query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        url, headers = f"http://{LOOPBACK}:{port}/graphql", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=300) as answer:
            found = json.load(answer)
        if "errors" in found:
            raise RuntimeError(f"the webserver answered {found['errors']}")
        return found["data"]

    try:
        _await_health(ask, process, log)
        yield ask, processes
    finally:
        processes.stop()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_health(ask: Ask, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended:\n{log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            found = ask(HEALTH)["instance"]["daemonHealth"]["allDaemonStatuses"]
            if all(daemon["healthy"] for daemon in found if daemon["required"]):
                return
        time.sleep(0.5)
    raise RuntimeError(f"no webserver and daemon in {START_SECONDS:g} s, see {log}")
