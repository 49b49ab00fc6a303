"""Two runs at once in a home that was just made, before anybody has set a limit of the pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.dagster_assets import GPU_POOL
from pipeline.dagster_home import dagster_home

PROGRAM = """
import json, sys, time
from pathlib import Path
import dagster as dg

home, own, other, pool = sys.argv[1:]
spans = {}

def at_the_same_time(what):
    Path(f"{home}.{what}.{own}").touch()
    while not Path(f"{home}.{what}.{other}").exists():
        time.sleep(0.01)

def timed(name):
    started = time.monotonic()
    time.sleep(1)
    spans[name] = (started, time.monotonic())

@dg.asset(pool=pool)
def pooled():
    timed("pooled")

@dg.asset
def free():
    timed("free")

with dg.DagsterInstance.from_config(home) as instance:
    for asset in (free, pooled):
        at_the_same_time(asset.key.to_user_string())
        assert dg.materialize([asset], instance=instance).success
print(json.dumps(spans))
"""


def test_the_first_runs_of_all_keep_to_the_pools_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    home = str(dagster_home())
    with dg.DagsterInstance.from_config(home) as instance:
        assert GPU_POOL not in instance.event_log_storage.get_concurrency_keys()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, home, *names, GPU_POOL],
            env={**os.environ, "DAGSTER_HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    try:
        spans = [json.loads(run.communicate(timeout=200)[0]) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert most_at_once([span["free"] for span in spans]) == 2, "without a pool both steps run together"
    assert most_at_once([span["pooled"] for span in spans]) == 1


def most_at_once(spans: list[list[float]]) -> int:
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
