"""The lake of the engine `local`, digest for digest, whatever dies: a row, the driver, a node.

The last test takes a node away from the cluster, so this is the last file of its folder.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assets import engine_ray
from assets.batches import StageFault
from assets.engine import LocalEngine
from assets.planner import Planner
from assets.stage import StageGraph
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from tests.assets.engine_ray.grey_lake import (
    PHOTOS,
    Told,
    TwoNodes,
    digests,
    level_stage,
    make_lake,
    run,
    states,
    warm,
)

ANNOTATION = ("landmarks", "iris", "masks", "aesthetics", "identity_embedding", "condition", "latents")
ON_PAIRS = ("diffface_swaps", "pseudo_triplets", "triplet_scores", "swaps")


def test_every_row_stage_of_photographs_and_a_killed_driver(cluster, engine, smoke_lake, tmp_path) -> None:
    """The driver dies after three commits; the same actors compute the rest for the next driver."""
    lake = Lake.open(tmp_path / "lake", create=True)
    ingest(lake, smoke_lake.folder / "photos", shard_size=8, consent=Consent.SYNTHETIC)
    command = [sys.executable, "-m", "pipeline.cli", "run", *ANNOTATION, "--profile", "smoke"]
    command += ["--lake", lake.uri, "--device", "cpu", "--engine", "ray", "--ray-actors", "2"]
    environment = {**os.environ, "ORCHARD_CRASH_AT": "after_commit:3", "DAGSTER_HOME": str(tmp_path / "home")}
    died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    graph = profile("smoke").graph()
    committed = sum(
        int((~rows.pending).sum())
        for name, rows in Planner(lake, graph).table("faces").stages.items()
        if name in ANNOTATION
    )
    assert committed
    actors = warm(lake)
    done = run_stages(lake, graph, ANNOTATION, device="cpu", engine=engine)
    assert sum(done.computed_rows.values()) == len(ANNOTATION) * 20 - committed
    assert warm(lake) == actors  # the actors outlived their driver, and have their models loaded
    assert sum(map(len, actors.values())) == 2
    expected = Planner(smoke_lake.lake, graph).table("faces")
    found = Planner(lake, graph).table("faces")
    for name in ANNOTATION:
        assert found.shard_digests(name) == expected.shard_digests(name), name


def test_every_row_stage_of_pairs(engine, smoke_lake, tmp_path) -> None:
    own = smoke_lake.copy_to(tmp_path)
    graph = profile("smoke").graph()
    graph.prepare(own.lake)

    before = digests(own.lake, graph)
    assert set(before) == {*ANNOTATION, *ON_PAIRS}
    engine.choice = dataclasses.replace(engine.choice, actors=1)  # starting processes is what takes time here
    done = run_stages(own.lake, graph, ON_PAIRS, force=True, device="cpu", engine=engine)
    assert all(done.computed_rows[name] for name in ON_PAIRS)
    assert digests(own.lake, graph) == before


def test_a_row_that_kills_its_process_is_quarantined_and_the_others_go_on(tmp_path: Path, engine) -> None:
    def compute(rows):
        import os
        import signal

        if any(int(row["image"].mean()) == 120 for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)

    lake = make_lake(tmp_path)
    computed, said = run(lake, level_stage(compute), engine)
    assert computed == PHOTOS
    bad = {key: value for key, value in states(lake, "level").items() if value["status"] != "ok"}
    assert {key: value["reason"] for key, value in bad.items()} == {"p1/01": "process_died"}
    # unheard, at its batch of two, apart with that batch, alone
    assert sum("its process was lost" in text for text in said) == 4, said
    assert any("a row kills the process computing it" in text for text in said)
    assert run(lake, level_stage(compute), engine)[0] == 0


def test_code_that_kills_with_every_row_stops_the_run(tmp_path: Path, engine, monkeypatch) -> None:
    monkeypatch.setattr(engine_ray, "LETHAL_ROWS", 1)  # each more costs two more processes

    def compute(rows):
        import os

        os._exit(7)

    lake = make_lake(tmp_path)
    with pytest.raises(StageFault, match="code or its set-up is at fault"):
        run(lake, level_stage(compute, batch_size=1), engine, shards=["shard-00000"])
    assert not any(states(lake, "level").values())


def test_out_of_memory_halves_the_batch_of_all_processes(tmp_path: Path, engine) -> None:
    def compute(rows):
        if len(rows) > 1:
            raise RuntimeError("HIP out of memory. Tried to allocate 20 GiB")

    lake = make_lake(tmp_path)
    computed, said = run(lake, level_stage(compute), engine)
    assert computed == PHOTOS
    assert {value["status"] for value in states(lake, "level").values()} == {"ok"}
    # each of the two processes at most once: later shards are told
    assert 1 <= sum("out of memory with 2 rows" in text for text in said) <= 2


def test_a_node_that_dies_mid_run_loses_nothing(cluster: TwoNodes, tmp_path: Path, engine) -> None:
    """The first node is full, so the second computes; it dies after a batch, and the first takes over."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Holder:
        def ready(self) -> bool:
            return True

    head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
    here = NodeAffinitySchedulingStrategy(head, soft=False)
    holder: Any = ray.remote(Holder).options(num_cpus=1, scheduling_strategy=here).remote()
    ray.get(holder.ready.remote())

    class Killing(Told):
        killed = False

        def advance(self, stage: str, rows: int) -> None:
            if not self.killed:
                self.killed = True
                os.kill(cluster.raylet, signal.SIGKILL)
                ray.kill(holder)

    told, lake, stage = Killing(), make_lake(tmp_path / "ray"), level_stage(with_process=False)
    graph = StageGraph((stage,))
    graph.prepare(lake)
    first = run_stages(lake, graph, ["level"], device="cpu", engine=engine, progress=told)
    assert any("the node it ran on is gone" in text or "cannot be reached" in text for text in told.said)
    assert first.computed_rows == {"level": PHOTOS}
    assert run(lake, stage, engine)[0] == 0
    local = make_lake(tmp_path / "local")
    run(local, stage, LocalEngine())
    assert digests(lake, graph) == digests(local, graph)
