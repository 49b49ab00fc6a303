"""Warm processes of a cluster: who may reach them, what they are asked for, who uses and who ends them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.engine import ShardWork
from assets.stage import StageGraph
from pipeline.cli import app
from resources.compute.demand import StageResources
from resources.compute.ray_cluster import FOLDER_VARIABLE, LOOPBACK, ClusterUnavailable, own_cluster
from resources.lake.schema import Column
from tests.assets.engine_ray.grey_lake import (
    PHOTOS,
    SHARD_SIZE,
    TwoNodes,
    column,
    level_stage,
    make_lake,
    run,
    warm,
)


def own_address() -> str:
    running = own_cluster()
    assert running is not None
    return running.address


def test_nothing_listens_beyond_the_loopback_interface(cluster: TwoNodes, tmp_path: Path, engine) -> None:
    run(make_lake(tmp_path), level_stage(), engine)  # with workers
    ours = {cluster.own.process, cluster.raylet}
    for process in (cluster.own.process, cluster.raylet):
        ours |= {child.pid for child in psutil.Process(process).children(recursive=True)}
    connections = [item for item in psutil.net_connections("tcp") if item.pid in ours]
    listening = [item.laddr for item in connections if item.status == psutil.CONN_LISTEN]
    assert len(listening) >= 5  # the head, two nodes, two workers
    addresses = {str(next(iter(address))).removeprefix("::ffff:") for address in listening}
    assert addresses == {LOOPBACK}


def test_a_driver_without_the_token_is_turned_away(cluster: TwoNodes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64, encoding="utf-8")
    script = f"from resources.compute.ray_cluster import connect; connect({cluster.own.address!r}, 'tests')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(token), "RAY_NUM_REDIS_GET_RETRIES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "no Ray cluster lets this process in" in done.stderr


def test_a_gpu_that_no_node_has_is_an_error_at_once(tmp_path: Path, engine) -> None:
    lake = make_lake(tmp_path)
    stage = level_stage(resources=StageResources(num_gpus=0.5))
    graph = StageGraph((stage,))
    graph.prepare(lake)
    work = ShardWork(lake, graph, [stage], lake.faces.snapshot().shards(), device="auto")
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=r"level asks for 0.5 GPU, 1 CPU on one node, and no node"):
        list(engine.run(work))
    assert time.monotonic() - started < 10
    assert run(lake, stage, engine)[0] == PHOTOS  # --device cpu takes no GPU


def test_stages_that_ask_for_the_same_share_a_process(engine) -> None:
    one, other = level_stage(), level_stage(name="other", outputs=(Column("other", pa.int32()),))
    large = dataclasses.replace(other, name="large", resources=StageResources(num_cpus=2))
    graph = StageGraph((one, other, large))
    assert [[stage.name for stage in group] for group in engine.groups(graph, graph.row_stages())] == [
        ["level", "other"],
        ["large"],
    ]


def test_a_dagster_run_hands_its_shard_to_the_same_warm_processes(tmp_path: Path, engine) -> None:
    import dagster as dg

    from assets.dagster_assets import build_assets, register_partitions
    from resources.lake.resource import LakeResource

    lake, stage = make_lake(tmp_path), level_stage()
    run(lake, stage, engine, shards=["shard-00000"])
    (before,) = warm(lake).values()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        register_partitions(instance, lake)
        result = dg.materialize(
            build_assets(StageGraph((stage,))),
            selection=["level"],
            partition_key="shard-00001",
            instance=instance,
            resources={"lake": LakeResource(uri=lake.uri, device="cpu", engine="ray", ray_actors=2)},
        )
    (told,) = result.asset_materializations_for_node("level")
    assert told.metadata["computed"].value == SHARD_SIZE
    assert told.metadata["device_use"].value == "cpu"
    assert 0 <= float(str(told.metadata["share_in_model"].value)) <= 1
    assert warm(lake)["level"] == before


def test_the_command_shows_and_reaps_warm_processes(tmp_path: Path, engine) -> None:
    lake = make_lake(tmp_path)
    run(lake, level_stage(), engine, shards=["shard-00000"])

    def told(*command: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["ray", *command, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    status = told("status", "--lake", lake.uri)
    assert [node["CPU"] for node in status["nodes"]] == [1, 1]
    (actor,) = status["actors"]
    assert (actor["stages"], actor["ready"], actor["tasks"]) == ("level", True, 0)
    assert [actor["process"]] == warm(lake)["level"]
    assert len(told("reap", "--lake", lake.uri)["ended"]) == 1
    assert not warm(lake)
    assert told("start") == {"address": own_address(), "started": False}


def test_a_deploy_reaps_the_processes_of_the_old_code(tmp_path: Path, engine) -> None:
    lake = make_lake(tmp_path)
    run(lake, level_stage(), engine)
    (old,) = warm(lake).values()
    assert set(column(lake, "process").values()) <= set(old)
    run(lake, level_stage(), engine, force=True)
    assert warm(lake) == {"level": old}  # the same code: the same processes
    computed, said = run(lake, level_stage(code_version="2"), engine)
    (new,) = warm(lake).values()
    assert computed == PHOTOS
    assert not set(old) & set(new)
    assert set(column(lake, "process").values()) <= set(new)
    assert any("other code or weights loaded" in text for text in said)
    assert not any(psutil.pid_exists(process) for process in old)


def test_the_bench_of_warm_actors_in_miniature(cluster: TwoNodes, engine, tmp_path, monkeypatch) -> None:
    """All its ways and its table; in this process, so that nothing is started but what computes."""
    from benches import engine as bench

    monkeypatch.setattr(bench, "measured", lambda work, uri: {"seconds": 2.0, "found": work(uri)})
    result = tmp_path / "engine.json"
    bench.main(
        [
            *(
                "--shards",
                "2",
                "--rows",
                "8",
                "--load-seconds",
                "0",
                "--row-seconds",
                "0.01",
                "--actors",
                "1",
            ),
            *("--ray-folder", os.environ[FOLDER_VARIABLE], "--result", str(result)),
        ]
    )
    found = json.loads(result.read_text(encoding="utf-8"))
    ways = {name: item["found"] for name, item in found["table"].items() if name != "cluster_start"}
    assert list(ways) == ["in_process", "ray_cold", "ray_warm", "ray_warm_one_actor", "plain_ray_data"]
    assert {way["rows"] for way in ways.values()} == {8}
    assert found["ratios"]["warm_over_model_time"] == round(2.0 / ways["ray_warm"]["model_seconds"], 3)
    assert own_cluster() is not None
