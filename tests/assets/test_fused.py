"""Several stages in one pass over a shard: the same lake as one at a time, every photograph decoded once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets import batches, runner, shard_pass
from assets.batches import StageFault
from assets.fusing import fused_groups
from assets.planner import Planner, Retry
from assets.runner import run_shard_stages
from assets.stage import Input, NoConfig, RowStage, StageGraph
from pipeline.execution import run_stages
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import Column

PHOTOS = 12
ROW_STAGES = ("brightness", "band", "caption", "contrast")


def contrast_stage() -> RowStage:
    """A second stage that reads the photograph, and two of the others' results."""

    def load(context):
        return lambda rows: [
            {"contrast": float(row["image"].max()) - float(row["brightness"]) + row["band"]} for row in rows
        ]

    return RowStage(
        name="contrast",
        code_version="1",
        description="Brightest pixel above the mean, and the band.",
        config=NoConfig(),
        inputs=(
            Input("faces", ("image",)),
            Input("brightness", ("brightness",)),
            Input("band", ("band",), tracked=False),
        ),
        outputs=(Column("contrast", pa.float32(), quantum=0.01),),
        load=load,
        batch_size=3,
    )


@pytest.fixture
def wide(graph: StageGraph, lake: Lake) -> StageGraph:
    wider = StageGraph((*graph.stages[:3], contrast_stage(), graph.stages[3]))
    wider.prepare(lake)
    return wider


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Sizes of the files that were decoded."""
    seen: list[int] = []
    decode = batches.decode_upright

    def counted(data: bytes) -> np.ndarray:
        seen.append(len(data))
        return decode(data)

    monkeypatch.setattr(batches, "decode_upright", counted)
    return seen


def contents(lake: Lake, stages: Sequence[str] = ROW_STAGES) -> list[dict]:
    names = [name for stage in stages for name in (stage, f"{stage}_state")]
    rows = lake.faces.snapshot().scan(["image_id", "channels", *names]).to_pylist()
    return [{name: value for name, value in row.items() if not name.startswith("_row")} for row in rows]


def run(lake: Lake, graph: StageGraph, *names: str, **options) -> dict[str, int]:
    return run_stages(lake, graph, names or graph.names, device="cpu", **options).computed_rows


def test_together_gives_the_lake_of_one_at_a_time_and_decodes_once(
    tmp_path: Path, lake, wide, photo_root, run_all, decoded
) -> None:
    alone = Lake.open(tmp_path / "alone", create=True)
    ingest(alone, photo_root, shard_size=4)
    wide.prepare(alone)
    decoded.clear()
    run_all(alone, wide)
    assert len(decoded) == 2 * PHOTOS
    decoded.clear()
    assert run(lake, wide) == dict.fromkeys(ROW_STAGES, PHOTOS) | {"total": 1}
    assert len(decoded) == PHOTOS
    assert contents(lake) == contents(alone)
    assert run(lake, wide) == dict.fromkeys((*ROW_STAGES, "total"), 0)
    lake.faces.snapshot().dataset.validate()


def test_in_one_pass_a_change_stops_where_the_output_comes_out_the_same(
    lake, wide, photo_root, repaint
) -> None:
    run(lake, wide)
    repaint(photo_root / "p1" / "01.png", 121)  # was 120: another brightness, the same band
    ingest(lake, photo_root)
    assert run(lake, wide) == {"brightness": 1, "band": 1, "caption": 0, "contrast": 1, "total": 0}
    repaint(photo_root / "p1" / "01.png", 250)
    ingest(lake, photo_root)
    assert run(lake, wide) == {"brightness": 1, "band": 1, "caption": 1, "contrast": 1, "total": 1}
    row = next(row for row in contents(lake) if row["image_id"] == "p1/01")
    assert (row["caption"], row["contrast"], row["contrast_state"]["attempt"]) == ("band 3", 3.0, 1)


def test_a_quarantined_row_is_quarantined_downstream_in_the_same_pass(
    lake, wide, photo_root, repaint
) -> None:
    repaint(photo_root / "p1" / "02.png", 0)
    ingest(lake, photo_root)
    assert run(lake, wide) == dict.fromkeys(ROW_STAGES, PHOTOS) | {"total": 1}
    row = next(row for row in contents(lake) if row["image_id"] == "p1/02")
    assert [row[f"{stage}_state"]["reason"] for stage in ROW_STAGES] == ["low_quality"] + ["upstream"] * 3
    assert run(lake, wide, retry=Retry("low_quality")) == dict.fromkeys((*ROW_STAGES, "total"), 0) | {
        "brightness": 1
    }


def test_force_computes_every_row_of_every_stage_once(lake, wide, decoded) -> None:
    run(lake, wide)
    decoded.clear()
    assert run(lake, wide, *ROW_STAGES, force=True) == dict.fromkeys(ROW_STAGES, PHOTOS)
    assert len(decoded) == PHOTOS
    attempts = {row[f"{stage}_state"]["attempt"] for row in contents(lake) for stage in ROW_STAGES}
    assert attempts == {2}
    assert sum(run(lake, wide).values()) == 0


@pytest.mark.parametrize("photos_held", [1, 3])
def test_no_more_pixels_are_held_than_a_window_has(
    lake, wide, changed, monkeypatch, decoded, photos_held
) -> None:
    monkeypatch.setattr(shard_pass, "WINDOW_BYTES", photos_held * 3 * 40 * 40)
    alive: list[weakref.ref] = []
    most = 0

    def load(context):
        def compute(rows: Sequence) -> list:
            nonlocal most
            alive.extend(weakref.ref(row["image"]) for row in rows)
            gc.collect()
            most = max(most, sum(item() is not None for item in alive))
            return [{"brightness": 1.0, "channels": [1, 1, 1]} for _ in rows]

        return compute

    slim = changed(wide, "brightness", load=load)
    gc.freeze()  # the libraries' objects, so that each collection looks at those of this test only
    assert run(lake, slim) == dict.fromkeys(ROW_STAGES, PHOTOS) | {"total": 1}
    assert most == photos_held
    assert len(decoded) == PHOTOS


def test_with_a_commit_due_after_every_batch_all_is_computed_all_the_same(lake, wide, monkeypatch) -> None:
    monkeypatch.setattr(runner, "COMMIT_SECONDS", 0.0)
    assert run(lake, wide) == dict.fromkeys(ROW_STAGES, PHOTOS) | {"total": 1}
    states = {row[f"{stage}_state"]["status"] for row in contents(lake) for stage in ROW_STAGES}
    assert states == {"ok"}


def test_a_faulty_stage_costs_the_others_nothing(lake, wide, changed) -> None:
    def load(context):
        def compute(rows: Sequence) -> list:
            raise AttributeError("no such thing")

        return compute

    broken = changed(wide, "band", load=load, code_version="broken")
    stages = [broken[name] for name in ("brightness", "band", "caption")]
    with pytest.raises(StageFault, match="no such thing"):
        run_shard_stages(lake, broken, stages, "shard-00000", device="cpu")
    rows = [row for row in contents(lake) if row["image_id"].startswith("p0")]
    assert all(row["brightness_state"]["status"] == "ok" for row in rows)
    assert all(row["band_state"] is None and row["caption_state"] is None for row in rows)


def test_a_photo_replaced_during_the_pass_leaves_no_result_of_the_old_one(
    lake, wide, changed, photo_root, repaint
) -> None:
    """Commits are checked against the newest version: a result of other inputs than today's is dropped."""
    calls = 0

    def load(context):
        def compute(rows: Sequence) -> list:
            nonlocal calls
            calls += 1
            if calls == 1:
                repaint(photo_root / "p0" / "00.png", 250)
                ingest(lake, photo_root)
            return [{"caption": f"band {row['band']}"} for row in rows]

        return compute

    raced = changed(wide, "caption", load=load)
    run(lake, raced)
    row = next(row for row in contents(lake) if row["image_id"] == "p0/00")
    assert (row["brightness"], row["band"], row["caption"], row["contrast"]) == (250, 3, "band 3", 3)
    assert sum(run(lake, raced).values()) == 0
    assert all(Planner(lake, raced).plan(raced[stage]).stale_rows == 0 for stage in ROW_STAGES)


def test_stages_share_a_pass_only_where_none_between_them_is_left_out(
    wide: StageGraph, changed: Callable
) -> None:
    def names(graph: StageGraph, *chosen: str) -> list[list[str]]:
        stages = [stage for stage in graph.row_stages() if stage.name in chosen]
        return [[stage.name for stage in group] for group in fused_groups(graph, stages)]

    assert names(wide, *ROW_STAGES) == [list(ROW_STAGES)]
    assert names(wide, "brightness", "caption", "contrast") == [["brightness"], ["caption", "contrast"]]
    other = changed(wide, "caption", table="triplets")
    assert names(other, "brightness", "band", "caption") == [["brightness", "band"], ["caption"]]
    with_artifact = StageGraph(
        (*wide.stages, RowStage(
            name="share",
            code_version="1",
            description="The total beside every row.",
            config=NoConfig(),
            inputs=(Input("total"), Input("contrast", ("contrast",))),
            outputs=(Column("share", pa.int32()),),
            load=lambda context: lambda rows: [{"share": 1} for _ in rows],
        ))
    )  # fmt: skip
    assert names(with_artifact, "contrast", "share") == [["contrast"], ["share"]]
