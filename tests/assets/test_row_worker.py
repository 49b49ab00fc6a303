"""A worker writes and never commits; the driver commits what is still true, and nothing else."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from assets import row_worker
from assets.batches import StageFault
from assets.commits import commit_staged
from assets.planner import Planner
from assets.row_worker import Assignment, Loading, Passed, Progress, RowWorker
from assets.runner import run_shard
from assets.stage import Input, NoConfig, RowStage, StageGraph
from resources.compute.device import DeviceUnavailable
from resources.compute.source import source_digest
from resources.lake.commit import WrittenGroup, commit_written
from resources.lake.errors import CommitConflict, CommitRefused
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import Column

SHARD = "shard-00001"
STAGES = ("brightness", "band")


@pytest.fixture
def worker(graph: StageGraph, monkeypatch) -> RowWorker:
    """A worker that is handed the graph itself: its stages' functions need no pickling in one process."""
    worker = RowWorker(source_digest(), "cpu", 0.0, 1)
    monkeypatch.setattr(worker, "_graph", lambda graph_bytes: graph)
    return worker


def assignment(lake: Lake, stages: Sequence[str] = STAGES, **changes: Any) -> Assignment:
    return Assignment(lake.uri, SHARD, tuple(stages), 60.0, {}, **changes)


def passed(worker: RowWorker, task: Assignment) -> Passed:
    last = list(worker.compute(b"", task))[-1]
    assert isinstance(last, Passed)
    return last


def commit(lake: Lake, graph: StageGraph, done: Passed, *stages: str) -> None:
    for name in stages:
        stage = graph[name]
        assert isinstance(stage, RowStage)
        commit_staged(Planner(lake, graph), stage, SHARD, done.staged[name])


def digests(lake: Lake, graph: StageGraph) -> dict[str, str]:
    table = Planner(lake, graph).table("faces", SHARD)
    return {name: table.shard_digests(name)[SHARD] for name in STAGES}


def test_nothing_is_in_the_lake_before_the_driver_commits(lake, graph, worker) -> None:
    before = lake.faces.snapshot().version
    told = list(worker.compute(b"", assignment(lake)))
    assert [type(item) for item in told] == [Loading, Progress, Loading, Progress, Passed]
    assert lake.faces.snapshot().version == before
    done = pickle.loads(pickle.dumps(told[-1]))  # as it travels
    commit(lake, graph, done, *STAGES)
    found = digests(lake, graph)
    for name in STAGES:
        run_shard(lake, graph, graph[name], SHARD, device="cpu", force=True)
    assert digests(lake, graph) == found
    assert not any(passed(worker, assignment(lake)).row_ids.values())  # nothing is stale now


def test_rows_whose_photograph_changed_are_not_committed(lake, graph, worker, photo_root, repaint) -> None:
    done = passed(worker, assignment(lake))
    repaint(photo_root / "p1" / "01.png", 7)
    assert ingest(lake, photo_root).replaced == 1
    version = lake.faces.snapshot().version
    with pytest.raises(CommitConflict, match="inputs of computed rows changed"):
        commit(lake, graph, done, "brightness")
    assert lake.faces.snapshot().version == version
    again = worker.merge_again(done.token, "brightness")
    assert sum(len(group.row_ids) for group in again) == 3
    commit(lake, graph, dataclasses.replace(done, staged={"brightness": again}), "brightness")
    rows = Planner(lake, graph).table("faces", SHARD).stages["brightness"]
    assert int(rows.stale.sum()) == 1


def test_another_writer_of_the_same_group_is_noticed(lake, graph, worker) -> None:
    done = passed(worker, assignment(lake, ["brightness"]))
    run_shard(lake, graph, graph["brightness"], SHARD, device="cpu")
    with pytest.raises(CommitConflict):
        commit(lake, graph, done, "brightness")
    again = worker.merge_again(done.token, "brightness")
    commit(lake, graph, dataclasses.replace(done, staged={"brightness": again}), "brightness")
    worker.release(done.token)
    with pytest.raises(KeyError):
        worker.merge_again(done.token, "brightness")


def test_files_that_do_not_fit_are_refused(lake, graph, worker) -> None:
    written = passed(worker, assignment(lake, ["brightness"])).staged["brightness"][0].written
    base = lake.faces.snapshot(written.version)

    def refused(**changes: Any) -> str:
        wrong: WrittenGroup = dataclasses.replace(written, **changes)
        with pytest.raises(CommitRefused) as caught:
            commit_written(base, wrong)
        return str(caught.value)

    assert "every node of a cluster must see the lake" in refused(file_name="nowhere.lance")
    assert "no fragment" in _no_fragment(base, written)
    assert "holds" in refused(columns=pa.schema([pa.field("brightness", pa.float64())]))
    assert f"made for version {written.version - 1}" in refused(version=written.version - 1)


def _no_fragment(base, written: WrittenGroup) -> str:
    with pytest.raises(Exception, match="no fragment 99") as caught:
        commit_written(base, dataclasses.replace(written, fragment_id=99))
    return str(caught.value)


def test_only_the_rows_asked_for_are_computed(lake, graph, worker) -> None:
    rows = Planner(lake, graph).table("faces", SHARD).row_ids.tolist()
    within = frozenset(rows[:2])
    assert set(passed(worker, assignment(lake, within=within)).row_ids["band"]) == within
    assert set(passed(worker, assignment(lake, without=within)).row_ids["band"]) == set(rows[2:])


def test_a_fault_of_one_stage_leaves_what_the_others_computed(lake, graph, worker, with_stage, monkeypatch):
    def load(context):
        def compute(rows):
            raise TypeError("wrong code")

        return compute

    broken = with_stage(graph, dataclasses.replace(graph["band"], load=load, code_version="broken"))
    monkeypatch.setattr(worker, "_graph", lambda graph_bytes: broken)
    done = passed(worker, assignment(lake))
    assert done.fault is not None
    assert "wrong code" in done.fault
    assert len(done.row_ids["brightness"]) == 4
    assert not done.row_ids["band"]


def test_other_code_than_the_drivers_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="other code than the driver"):
        RowWorker("0123456789abcdef", "cpu", 0.0, 1)


def test_a_gpu_that_was_given_must_be_there() -> None:
    with pytest.raises(DeviceUnavailable, match=r"asks for 0.5 GPU"):
        RowWorker(source_digest(), "auto", 0.5, 1)


def memory_stage(rows_that_fit: int, too_large: int | None) -> RowStage:
    """A stage whose device holds so many rows; one photograph of that brightness does not fit at all."""

    def load(context):
        import torch

        def compute(rows):
            if len(rows) > rows_that_fit or too_large in [int(row["image"].mean()) for row in rows]:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(rows)} GiB")
            return [{"level": float(np.mean(row["image"])), "together": len(rows)} for row in rows]

        return compute

    return RowStage(
        name="level",
        code_version="1",
        description="Mean of all pixels, and how many rows were computed together.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)),),
        outputs=(Column("level", pa.float32(), quantum=0.01), Column("together", pa.int16())),
        load=load,
        batch_size=4,
    )


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(lake: Lake) -> None:
    stage = memory_stage(rows_that_fit=2, too_large=120)
    graph = StageGraph((stage,))
    graph.prepare(lake)
    said: list[str] = []
    result = run_shard(lake, graph, stage, SHARD, device="cpu", report=said.append)
    assert (result.ok, result.quarantined, result.reasons) == (3, 1, {"out_of_memory": 1})
    told = [text for text in said if "out of memory with" in text]
    assert [text.split(";")[0] for text in told] == [
        "level: out of memory with 4 rows at a time",
        "level: out of memory with 2 rows at a time",
    ]
    assert [text.split()[13] for text in told] == ["2", "1"], told


def test_the_smaller_batch_is_kept_for_the_rest_of_the_run(lake: Lake) -> None:
    from pipeline.execution import Progress, run_stages

    class Told(Progress):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    graph, told = StageGraph((memory_stage(rows_that_fit=2, too_large=None),)), Told()
    graph.prepare(lake)
    assert run_stages(lake, graph, ["level"], device="cpu", progress=told).computed_rows == {"level": 12}
    assert sum("out of memory" in text for text in told.said) == 1
    together = lake.faces.snapshot().scan(["together"])["together"].to_pylist()
    assert together == [2] * 12


def test_a_model_that_fits_no_row_at_all_is_a_fault(lake: Lake, monkeypatch) -> None:
    monkeypatch.setattr("assets.batches.ALIKE_FAILURES", 4)
    stage = memory_stage(rows_that_fit=0, too_large=None)
    graph = StageGraph((stage,))
    graph.prepare(lake)
    with pytest.raises(StageFault, match="needs more memory than its device has"):
        run_shard(lake, graph, stage, SHARD, device="cpu", report=lambda text: None)


def test_what_nobody_asks_for_any_more_is_forgotten(lake, worker, monkeypatch) -> None:
    token = passed(worker, assignment(lake)).token
    monkeypatch.setattr(row_worker, "HELD_SECONDS", 0.0)
    passed(worker, assignment(lake))
    with pytest.raises(KeyError):
        worker.merge_again(token, "band")
