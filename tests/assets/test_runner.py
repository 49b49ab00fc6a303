from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from assets import commits, runner
from assets.batches import StageFault
from assets.planner import Planner
from assets.runner import run_shard
from assets.stage import Input, NoConfig, RowStage, StageGraph
from resources.lake.commit import commit_group
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

ALL = {"brightness": 12, "band": 12, "caption": 12, "total": 1}
NONE = dict.fromkeys(ALL, 0)


def column(lake: Lake, name: str) -> dict:
    return {row["image_id"]: row[name] for row in lake.faces.snapshot().scan(["image_id", name]).to_pylist()}


def replace_photo(lake: Lake, root: Path, repaint: Callable, value: int, name: str = "p1/01.png") -> None:
    repaint(root / name, value)
    assert ingest(lake, root).replaced == 1


def test_first_run_computes_everything_and_the_second_nothing(lake, graph, run_all) -> None:
    assert run_all(lake, graph) == ALL
    assert column(lake, "brightness")["p0/00"] == pytest.approx(20)
    assert column(lake, "caption")["p2/03"] == "band 3"
    version = lake.faces.snapshot().version
    assert run_all(lake, graph) == NONE
    assert lake.faces.snapshot().version == version


def test_one_replaced_photo_costs_one_row_of_every_stage_it_changes(
    lake, graph, run_all, photo_root, repaint
) -> None:
    run_all(lake, graph)
    replace_photo(lake, photo_root, repaint, 250)
    plan = {stage.name: Planner(lake, graph).plan(stage) for stage in graph.stages}
    assert plan["brightness"].stale_rows == 1
    assert plan["brightness"].why == {"input:faces": 1}
    assert plan["brightness"].shards == ["shard-00001"]
    assert (plan["band"].stale_rows, plan["band"].waiting_rows) == (0, 1)
    assert run_all(lake, graph) == {"brightness": 1, "band": 1, "caption": 1, "total": 1}
    assert column(lake, "caption")["p1/01"] == "band 3"


def test_a_change_stops_where_the_output_comes_out_the_same(
    lake, graph, run_all, photo_root, repaint
) -> None:
    run_all(lake, graph)
    replace_photo(lake, photo_root, repaint, 121)  # was 120: another brightness, the same band
    assert run_all(lake, graph) == {"brightness": 1, "band": 1, "caption": 0, "total": 0}


def test_touching_a_file_computes_nothing(lake, graph, run_all, photo_root) -> None:
    run_all(lake, graph)
    os.utime(photo_root / "p0" / "00.png", ns=(5, 5))
    ingest(lake, photo_root)
    assert run_all(lake, graph) == NONE


def test_a_code_bump_recomputes_that_stage_and_stops_there(lake, graph, run_all, changed) -> None:
    run_all(lake, graph)
    bumped = changed(graph, "band", code_version="2")
    assert Planner(lake, bumped).plan(bumped["band"]).why == {"code_version": 12}
    assert run_all(lake, bumped) == {"brightness": 0, "band": 12, "caption": 0, "total": 0}


def test_a_changed_setting_is_the_reason_told(
    lake, graph, run_all, with_stage, brightness_of, brightness_config
) -> None:
    run_all(lake, graph)
    stricter = with_stage(graph, brightness_of(brightness_config(darkest=30.0)))
    assert Planner(lake, stricter).plan(stricter["brightness"]).why == {"config": 12}
    assert run_all(lake, stricter) == {"brightness": 12, "band": 1, "caption": 1, "total": 1}
    assert column(lake, "brightness")["p0/00"] is None
    status = column(lake, "caption_state")["p0/00"]
    assert (status["status"], status["reason"]) == ("quarantined", "upstream")


def test_force_computes_every_row_once(lake, graph, run_all) -> None:
    run_all(lake, graph)
    assert run_all(lake, graph, "band", force=True) == {"band": 12}
    assert column(lake, "band_state")["p0/00"]["attempt"] == 2
    assert run_all(lake, graph) == NONE


def test_a_quarantined_row_stops_no_other(lake, graph, run_all, photo_root, repaint) -> None:
    repaint(photo_root / "p1" / "02.png", 0)
    ingest(lake, photo_root)
    assert run_all(lake, graph) == ALL
    states = column(lake, "brightness_state")
    assert states["p1/02"]["reason"] == "low_quality"
    assert sum(state["status"] == "ok" for state in states.values()) == 11
    repaint(photo_root / "p1" / "02.png", 99)
    ingest(lake, photo_root)
    assert run_all(lake, graph) == {"brightness": 1, "band": 1, "caption": 1, "total": 1}


def test_a_photo_that_becomes_unreadable_takes_its_results_with_it(lake, graph, run_all, photo_root) -> None:
    run_all(lake, graph)
    (photo_root / "p0" / "03.png").write_bytes(b"")
    ingest(lake, photo_root)
    run_all(lake, graph)
    assert column(lake, "brightness")["p0/03"] is None
    assert column(lake, "caption")["p0/03"] is None


def failing(graph: StageGraph, changed: Callable, error: Callable[[dict], Exception | None]) -> StageGraph:
    def load(context):
        def compute(rows: Sequence) -> list:
            for row in rows:
                raised = error(row)
                if raised is not None:
                    raise raised
            return [{"band": 0} for _ in rows]

        return compute

    return changed(graph, "band", load=load, code_version="failing")


def test_one_row_that_breaks_the_model_is_found_and_quarantined(lake, graph, run_all, changed) -> None:
    def error(row: dict) -> Exception | None:
        return ValueError("bad row") if row["brightness"] == pytest.approx(140) else None

    broken = failing(graph, changed, error)
    run_all(lake, broken, "brightness", "band")
    states = column(lake, "band_state")
    reasons = {key: state["reason"] for key, state in states.items() if state["reason"]}
    assert reasons == {"p1/02": "model_error"}
    assert states["p1/02"]["detail"] == "ValueError: bad row"


def test_a_code_fault_stops_the_stage_and_quarantines_nothing(lake, graph, run_all, changed) -> None:
    broken = failing(graph, changed, lambda row: AttributeError("no such thing"))
    run_all(lake, broken, "brightness")
    with pytest.raises(StageFault, match="AttributeError: no such thing"):
        run_all(lake, broken, "band")
    assert all(state is None for state in column(lake, "band_state").values())


def test_first_rows_that_all_fail_alike_are_a_code_fault(
    tmp_path: Path, graph, run_all, changed, photo_root
) -> None:
    lake = Lake.open(tmp_path / "one_shard", create=True)
    ingest(lake, photo_root, shard_size=100)
    broken = failing(graph, changed, lambda row: RuntimeError("weights do not fit"))
    broken.prepare(lake)
    run_all(lake, broken, "brightness")
    with pytest.raises(StageFault, match="first 8 rows all failed with the same error"):
        run_all(lake, broken, "band")
    assert all(state is None for state in column(lake, "band_state").values())


def test_values_that_are_not_finite_quarantine_the_row(lake, graph, run_all, changed) -> None:
    def load(context):
        return lambda rows: [
            {"brightness": float("nan") if row["image"].mean() < 50 else 1.0, "channels": [0, 0, 0]}
            for row in rows
        ]

    run_all(lake, changed(graph, "brightness", load=load), "brightness")
    states = column(lake, "brightness_state")
    assert [key for key, state in states.items() if state["reason"] == "non_finite"] == ["p0/00", "p0/01"]


def test_undeclared_outputs_are_a_code_fault(lake, graph, run_all, changed) -> None:
    wrong = changed(graph, "brightness", load=lambda context: lambda rows: [{"shine": 1} for _ in rows])
    with pytest.raises(StageFault, match="undeclared"):
        run_all(lake, wrong, "brightness")


def test_rows_wait_for_an_upstream_that_was_not_run(lake, graph) -> None:
    said: list[str] = []
    stage = graph["band"]
    assert isinstance(stage, RowStage)
    result = run_shard(lake, graph, stage, "shard-00000", device="cpu", report=said.append)
    assert (result.computed, result.pending, result.rows) == (0, 4, 4)
    assert "wait for an upstream" in said[-1]


def test_work_is_committed_in_pieces_so_that_a_kill_loses_little(
    lake, graph, changed, run_all, monkeypatch
) -> None:
    """With a commit due after every batch, an interruption keeps what came before it."""
    monkeypatch.setattr(runner, "COMMIT_SECONDS", 0.0)
    seen = 0

    def load(context):
        def compute(rows: Sequence) -> list:
            nonlocal seen
            if seen >= 2:
                raise KeyboardInterrupt
            seen += len(rows)
            return [{"brightness": 1.0, "channels": [1, 1, 1]} for _ in rows]

        return compute

    slow = changed(graph, "brightness", load=load, batch_size=2)
    stage = slow["brightness"]
    assert isinstance(stage, RowStage)
    with pytest.raises(KeyboardInterrupt):
        run_shard(lake, slow, stage, "shard-00000", device="cpu")
    done = [state for state in column(lake, "brightness_state").values() if state]
    assert len(done) == 2


def test_another_writer_in_between_loses_nothing(lake, graph, run_all, monkeypatch) -> None:
    """A commit that conflicts is tried again on the newest version; both writers' rows are there."""
    run_all(lake, graph, "brightness")
    calls = 0

    def contested(snapshot, fragment, group, properties=None):
        nonlocal calls
        calls += 1
        if calls == 1:
            commit_group(snapshot, fragment, group)  # somebody else writes this very group first
        commit_group(snapshot, fragment, group, properties)

    monkeypatch.setattr(commits, "commit_group", contested)
    stage = graph["band"]
    assert isinstance(stage, RowStage)
    result = run_shard(lake, graph, stage, "shard-00000", device="cpu")
    assert calls >= 2 or result.computed == 4
    assert (result.ok, result.pending) == (4, 0)
    lake.faces.snapshot().dataset.validate()


def test_row_errors_keep_their_detail_short(lake, graph, run_all, changed) -> None:
    def load(context):
        return lambda rows: [RowError(Reason.NO_FACE, "x" * 5000) for _ in rows]

    run_all(lake, changed(graph, "brightness", load=load), "brightness")
    assert {len(state["detail"]) for state in column(lake, "brightness_state").values()} == {500}


def test_a_new_checkpoint_is_loaded_even_in_a_process_that_holds_the_old_one(
    lake, graph, run_all, photo_root, repaint
) -> None:
    """A long-lived process must not go on swapping with yesterday's teacher."""
    closed: list[int] = []

    class Adder:
        def __init__(self, total: int) -> None:
            self.total = total

        def __call__(self, rows: Sequence) -> list:
            return [{"share": self.total} for _ in rows]

        def close(self) -> None:
            closed.append(self.total)

    def load(context):
        artifact = context.lake.current_artifact("total")
        return Adder(int(artifact.metadata["total"]))

    share = RowStage(
        name="share",
        code_version="1",
        description="The total beside every row.",
        config=NoConfig(),
        inputs=(Input("total"), Input("band", ("band",))),
        outputs=(Column("share", pa.int32()),),
        load=load,
    )
    wider = StageGraph((*graph.stages, share))
    wider.prepare(lake)
    run_all(lake, wider)
    before = set(column(lake, "share").values())
    replace_photo(lake, photo_root, repaint, 250)
    assert run_all(lake, wider)["share"] == 12
    after = set(column(lake, "share").values())
    assert len(before) == len(after) == 1
    assert before != after
    assert closed == list(before)
