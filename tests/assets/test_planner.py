from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest

from assets.planner import Planner
from assets.stage import ArtifactStage, Input, RowStage, StageGraph
from pipeline.commands.plan import plan_stages, stage_status
from pipeline.execution import Progress, run_stages
from resources.lake.ingest import ingest
from resources.lake.lake import Lake


def lines(lake: Lake, graph: StageGraph) -> dict[str, dict]:
    return {name: plan.as_json() for name, plan in plan_stages(lake, graph, ["faces", *graph.names]).items()}


def test_a_new_lake_is_all_stale_and_everything_below_waits(lake, graph) -> None:
    shards = ["shard-00000", "shard-00001", "shard-00002"]
    found = lines(lake, graph)
    assert found["faces"]["stale_rows"] == 0
    assert found["brightness"] == {
        "stale_rows": 12,
        "waiting_rows": 0,
        "shards": shards,
        "why": {"never_computed": 12},
    }
    assert (found["caption"]["stale_rows"], found["caption"]["waiting_rows"]) == (12, 12)
    assert found["total"] == {"stale_rows": 1, "waiting_rows": 1, "shards": [], "why": {"never_computed": 1}}


def test_planning_changes_nothing_and_says_the_same_twice(lake, graph, run_all) -> None:
    run_all(lake, graph, "brightness")
    version = lake.faces.snapshot().version
    assert lines(lake, graph) == lines(lake, graph)
    assert lake.faces.snapshot().version == version


def test_several_reasons_are_told_together(lake, graph, run_all, changed, photo_root, repaint) -> None:
    run_all(lake, graph)
    repaint(photo_root / "p0" / "02.png", 77)
    ingest(lake, photo_root)
    bumped = changed(graph, "brightness", code_version="2")
    assert lines(lake, bumped)["brightness"]["why"] == {"code_version": 11, "code_version+input:faces": 1}


def test_a_stage_with_other_declared_inputs_is_stale_as_a_whole(lake, graph, run_all, changed) -> None:
    run_all(lake, graph)
    wider = changed(graph, "band", inputs=(*graph["band"].inputs, Input("faces", ())))
    assert lines(lake, wider)["band"]["why"] == {"input:faces": 12}


def test_an_untracked_input_makes_nothing_stale_but_is_waited_for(
    lake, graph, run_all, changed, photo_root, repaint
) -> None:
    lazy = changed(
        graph,
        "caption",
        inputs=(Input("band", ("band",)), Input("brightness", ("brightness",), tracked=False)),
    )
    run_all(lake, lazy)
    repaint(photo_root / "p1" / "01.png", 121)  # another brightness, the same band
    ingest(lake, photo_root)
    assert lines(lake, lazy)["caption"]["waiting_rows"] == 1
    assert run_all(lake, lazy) == {"brightness": 1, "band": 1, "caption": 0, "total": 0}


def test_a_weight_that_changes_is_a_reason_of_its_own(lake, graph, run_all) -> None:
    run_all(lake, graph)
    stage = dataclasses.replace(graph["band"])
    stage.__dict__["weights_digest"] = "band=other"  # what another file of the same role would give
    exchanged = StageGraph(tuple(stage if old.name == "band" else old for old in graph.stages))
    assert lines(lake, exchanged)["band"]["why"] == {"weights": 12}


def test_shard_digests_change_only_where_a_row_changed(lake, graph, run_all, photo_root, repaint) -> None:
    run_all(lake, graph)
    before = Planner(lake, graph).table("faces").shard_digests("brightness")
    repaint(photo_root / "p1" / "01.png", 250)
    ingest(lake, photo_root)
    run_all(lake, graph)
    after = Planner(lake, graph).table("faces").shard_digests("brightness")
    assert {shard for shard in before if before[shard] != after[shard]} == {"shard-00001"}


def test_status_counts_every_row_once(lake, graph, run_all, photo_root, repaint) -> None:
    repaint(photo_root / "p2" / "00.png", 0)
    (photo_root / "p0" / "00.png").write_bytes(b"")
    ingest(lake, photo_root)
    run_all(lake, graph, "brightness")
    found = stage_status(lake, graph)
    assert found["rows"] == 12
    assert found["stages"]["faces"] == {
        "ok": 11,
        "quarantined": 1,
        "pending": 0,
        "reasons": {"empty": 1},
    }
    assert found["stages"]["brightness"] == {
        "ok": 10,
        "quarantined": 2,
        "pending": 0,
        "reasons": {"low_quality": 1, "upstream": 1},
    }
    assert found["stages"]["band"] == {"ok": 0, "quarantined": 0, "pending": 12, "reasons": {}}
    assert found["stages"]["total"]["pending"] == 1


def test_a_run_of_chosen_stages_reports_what_waits(lake, graph) -> None:
    done = run_stages(lake, graph, ["band", "total"], device="cpu", progress=Progress())
    assert done.computed_rows == {"band": 0, "total": 0}
    assert done.waiting_rows == {"band": 12}
    assert "waits for band" in done.waiting["total"]


def test_a_run_can_be_limited_to_shards(lake, graph) -> None:
    done = run_stages(lake, graph, ["brightness"], shards=["shard-00001"], device="cpu")
    assert done.computed_rows == {"brightness": 4}
    assert Planner(lake, graph).table("faces").stages["brightness"].stale.sum() == 8


def test_stages_out_of_order_are_refused(graph) -> None:
    with pytest.raises(ValueError, match="band needs brightness, which does not come before it"):
        StageGraph((graph["band"], graph["brightness"]))


def test_two_stages_of_one_name_are_refused(graph) -> None:
    with pytest.raises(ValueError, match="two stages are called band; give one another name"):
        StageGraph((*graph.stages, graph["band"]))
    with pytest.raises(ValueError, match="two stages are called faces"):
        StageGraph((dataclasses.replace(graph["brightness"], name="faces"),))


def test_an_unknown_stage_names_the_known_ones(graph) -> None:
    with pytest.raises(KeyError, match="faces, brightness, band, caption, total"):
        graph["eyebrows"]


def test_an_artifact_that_lies_about_its_inputs_is_refused(
    lake, graph, run_all, with_stage: Callable
) -> None:
    total = graph["total"]
    assert isinstance(total, ArtifactStage)

    def build(context, fingerprint):
        return dataclasses.replace(total.build(context, fingerprint), fingerprint=b"another")

    run_all(lake, graph, "brightness", "band")
    with pytest.raises(ValueError, match="another fingerprint"):
        run_all(lake, with_stage(graph, dataclasses.replace(total, build=build)), "total")
    assert lake.current_artifact("total") is None


def test_planning_loads_no_model_library(lake, graph) -> None:
    assert isinstance(graph["band"], RowStage)
    code = (
        "import sys; from assets.planner import Planner; from pipeline.profiles import profile; "
        "from resources.lake.lake import Lake; graph = profile('tiny').graph(); "
        f"Planner(Lake.open({lake.uri!r}), graph); "
        "print([name for name in ('torch', 'mediapipe', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
