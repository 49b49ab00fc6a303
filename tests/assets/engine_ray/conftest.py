"""The engine `ray` on a cluster of two nodes of this machine, which serves all tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator

import pytest

from assets.engine_ray import RayEngine
from resources.compute import ray_actors
from resources.compute.engine_choice import EngineChoice
from resources.compute.ray_cluster import (
    FOLDER_VARIABLE,
    LOOPBACK,
    connect,
    start_own_cluster,
    stop_own_cluster,
)
from tests.assets.engine_ray.grey_lake import TwoNodes


@pytest.fixture(scope="package")
def cluster() -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it: pytest's own folders have too long names
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, folder)
        patch.setenv("RAY_worker_niceness", "0")  # of the second node; the first has it by itself
        own = start_own_cluster(num_cpus=1, report=lambda text: None)
        try:
            connect(None, "tests")
            import ray
            from ray._private.node import Node
            from ray._private.parameter import RayParams

            second = RayParams(
                gcs_address=own.address,
                node_ip_address=LOOPBACK,
                num_cpus=1,
                object_store_memory=100_000_000,
            )
            node = Node(second, head=False, shutdown_at_exit=False, spawn_reaper=False)
            raylet = node.all_processes["raylet"][0].process.pid
            while len([item for item in ray.nodes() if item["Alive"]]) < 2:
                time.sleep(0.1)
            yield TwoNodes(own, raylet)
            ray.shutdown()
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        finally:
            stop_own_cluster()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def engine(cluster: TwoNodes) -> Iterator[RayEngine]:
    yield RayEngine(EngineChoice("ray", "the test says so", actors=2))
    ray_actors.end(ray_actors.named_actors())
