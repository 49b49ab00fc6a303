"""`pipeline.train_worker --launch ray`: actors of a real cluster train what torchrun's processes do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets.training_rows import need_artifact
from pipeline.train_worker import main
from resources.compute.ray_cluster import own_cluster, start_own_cluster, stop_own_cluster
from resources.compute.ray_ranks import RankPlace, rank_environments
from resources.lake.failpoints import VARIABLE
from resources.lake.lake import Lake

SCRIPT = """
    import sys
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    from pipeline.train_worker import main

    agent = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
                         rdzv_endpoint="localhost:0", run_id="two", max_restarts=0, start_method="fork")
    print(elastic_launch(agent, main)(sys.argv[1:]))
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this machine with two cores, on the loopback interface."""
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("ORCHARD_RAY_FOLDER", str(folder))
    start_own_cluster(num_cpus=2, num_gpus=0)
    yield
    stop_own_cluster()
    assert own_cluster() is None


def _command(lake: str, *more: str) -> list[str]:
    return ["--lake", lake, "--profile", "smoke", "--stage", "teacher", "--device", "cpu", "--force", *more]


def _run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.timeout(600)
def test_actors_train_as_torchruns_processes_do_and_a_dead_one_ends_all(
    smoke_lake, cluster, tmp_path: Path
) -> None:
    before = need_artifact(smoke_lake.lake, "teacher")
    for name in ("torchrun", "ray"):
        shutil.copytree(smoke_lake.lake.uri, tmp_path / name)
    script = tmp_path / "together.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    done = _run([str(script), *_command(str(tmp_path / "torchrun"))])
    assert done.returncode == 0, done.stderr

    launch = [
        "-m",
        "pipeline.train_worker",
        *_command(str(tmp_path / "ray"), "--launch", "ray", "--workers", "2"),
    ]
    killed = _run(launch, **{VARIABLE: "mid_training:5"})
    assert killed.returncode == 1, killed.stdout
    assert "of the training died" in killed.stderr
    assert "all others were ended. Start it again" in killed.stderr
    assert need_artifact(Lake.open(tmp_path / "ray"), "teacher").digest == before.digest

    again = _run(launch)
    assert again.returncode == 0, again.stderr
    assert "ray: 2 processes on 127.0.0.1" in again.stdout
    assert f"teacher made {need_artifact(Lake.open(tmp_path / 'ray'), 'teacher').location}" in again.stdout
    ours, theirs = (need_artifact(Lake.open(tmp_path / name), "teacher") for name in ("ray", "torchrun"))
    assert ours.digest == theirs.digest
    assert ours.metadata["losses"] == theirs.metadata["losses"]


def test_where_no_cluster_is_that_is_said_at_once(smoke_lake, capsys, monkeypatch) -> None:
    monkeypatch.setenv("ORCHARD_RAY_ADDRESS", "127.0.0.1:1")
    started = time.monotonic()
    assert main(_command(smoke_lake.lake.uri, "--launch", "ray", "--workers", "2")) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert time.monotonic() - started < 30


def test_ranks_are_told_what_torchrun_would_tell_them() -> None:
    """Four processes on two nodes with two GPUs each, placed crosswise by the cluster."""
    places = [
        RankPlace("b", "10.0.0.2", ("1",), ("CUDA_VISIBLE_DEVICES",), 7001),
        RankPlace("a", "10.0.0.1", ("0",), ("CUDA_VISIBLE_DEVICES",), 7002),
        RankPlace("b", "10.0.0.2", ("0",), ("CUDA_VISIBLE_DEVICES",), 7003),
        RankPlace("a", "10.0.0.1", ("1",), ("CUDA_VISIBLE_DEVICES",), 7004),
    ]
    told = rank_environments(places)
    shared = {"WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.2", "MASTER_PORT": "7001", "LOCAL_WORLD_SIZE": "2"}
    expected = [("0", "0", "1,0"), ("2", "0", "0,1"), ("1", "1", "1,0"), ("3", "1", "0,1")]
    for environment, (rank, local_rank, gpus) in zip(told, expected, strict=True):
        own = {"RANK": rank, "LOCAL_RANK": local_rank, "CUDA_VISIBLE_DEVICES": gpus}
        assert environment == shared | own
    alone = rank_environments([RankPlace("a", "127.0.0.1", port=7005)])
    assert alone[0]["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert "CUDA_VISIBLE_DEVICES" not in alone[0]
