"""The frontier of a finished lake: the swaps of the table, every value kept, what is said without truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from assets.artifacts import run_artifact
from assets.checks.artifact_files import artifact_complete
from assets.evaluation import swapped_pairs
from assets.frontier_config import CONDITIONINGS, SweepConfig
from assets.frontier_file import Summary, read_rows, read_summary
from assets.frontier_summary import frontier_markdown, frontier_preview
from assets.stage import ArtifactStage
from models.swap.sampling_config import InversionConditioning
from pipeline.profiles import profile
from resources.lake.housekeeping import plan_garbage
from resources.lake.lake import Artifact, Lake
from resources.lake.pairs import store_swap_pairs
from resources.photos.decoding import DecodeLimits, decode_upright

SMALL = DecodeLimits(min_side=1)
SWEPT = ("teacher", "teacher_inversion:noID_trgCond", "teacher_inversion:trgID_noCond", "student")
REFERENCES = ("copy_target", "codec_ceiling", "mesh_warp", "diffface")


@pytest.fixture(scope="module")
def made(smoke_lake: Any) -> Artifact:
    return smoke_lake.lake.current_artifact("frontier")


@pytest.fixture(scope="module")
def rows(smoke_lake: Any, made: Artifact) -> list[dict[str, Any]]:
    return read_rows(smoke_lake.lake, made)


@pytest.fixture(scope="module")
def summary(smoke_lake: Any, made: Artifact) -> Summary:
    found = read_summary(smoke_lake.lake, made)
    assert found is not None
    return found


def test_every_pair_is_there_by_every_method_at_every_scale(
    smoke_lake: Any, made: Artifact, rows: list[dict[str, Any]]
) -> None:
    keys = {(row["pair_id"], row["method"], row["scale"]) for row in rows}
    pairs = swapped_pairs(smoke_lake.lake.swaps)
    expected = {(pair, method, scale) for pair in pairs for method in SWEPT for scale in (1.0, 4.0)}
    expected |= {(pair, method, None) for pair in pairs for method in REFERENCES}
    assert keys == expected
    assert len(rows) == len(expected) == made.metadata["rows"]
    assert artifact_complete(smoke_lake.lake, "frontier").passed


def test_at_the_recipes_own_guidance_an_inversion_gives_the_very_swap_of_the_table(
    smoke_lake: Any, rows: list[dict[str, Any]]
) -> None:
    [row] = [
        row
        for row in rows
        if row["swap"] and (row["method"], row["scale"]) == ("teacher_inversion:noID_trgCond", 1)
    ]
    key = f"{row['pair_id']}__teacher_inversion"
    stored = smoke_lake.lake.swaps.snapshot().find([key], ["swap"])[key]["swap"]
    ours, theirs = (decode_upright(data, SMALL).astype(int) for data in (row["swap"], stored))
    assert np.abs(ours - theirs).max() <= 1  # other rows were in the batch


def test_points_are_means_of_the_kept_values_and_agree_with_the_evaluation(
    smoke_lake: Any, rows: list[dict[str, Any]], summary: Summary
) -> None:
    points = {(point.method, point.scale, point.metric): point for point in summary.points}
    for method, scale in (("student", 4.0), ("copy_target", None)):
        values = [row["light_error"] for row in rows if (row["method"], row["scale"]) == (method, scale)]
        point = points[method, scale, "light_error"]
        assert point.mean == pytest.approx(np.mean(values))
        assert point.low <= point.mean <= point.high
        assert point.count == 4
    assert points["copy_target", None, "leak"].mean == 1
    assert points["codec_ceiling", None, "rank_1_of_20"].mean == 1
    digest = smoke_lake.lake.current_artifact("evaluation").digest.hex()
    stored = smoke_lake.lake.evaluations.snapshot().dataset.to_table(filter=f"evaluation = '{digest}'")
    means: Mapping[tuple[str, str], float] = {
        (row["method"], row["metric"]): row["mean"] for row in stored.to_pylist()
    }
    for metric in ("face_psnr", "light_error", "id_similarity_world"):
        inverted = points["teacher_inversion:noID_trgCond", 1.0, metric].mean
        assert inverted == pytest.approx(means["teacher_inversion", metric], rel=0.01)
        for method in ("mesh_warp", "diffface"):
            assert points[method, None, metric].mean == pytest.approx(means[method, metric])
    assert points["student", 1.0, "face_psnr"] != points["student", 4.0, "face_psnr"]


def test_people_see_a_table_and_a_picture(smoke_lake: Any, made: Artifact, summary: Summary) -> None:
    table = frontier_markdown(smoke_lake.lake, made)
    assert table is not None
    assert table.count("| teacher_inversion:trgID_noCond | 4 |") == 1
    assert all(f"At equal {axis}, less teacher" in table for axis in summary.axes)
    preview = frontier_preview(smoke_lake.lake, made)
    assert preview is not None
    assert decode_upright(preview, SMALL).shape == (96 * len(SWEPT), 96 * 2, 3)


def test_without_parameters_nothing_is_measured_and_the_old_file_is_garbage(
    smoke_lake: Any, made: Artifact, tmp_path: Path
) -> None:
    lake: Lake = smoke_lake.copy_to(tmp_path).lake
    graph = profile("smoke").graph()
    stage = graph["frontier"]
    assert isinstance(stage, ArtifactStage)
    pairs = lake.swap_pairs.snapshot().dataset.to_table().to_pylist()
    store_swap_pairs(lake, [{**row, "world": None} for row in pairs])
    told: list[str] = []
    result = run_artifact(lake, graph, stage, device="cpu", report=told.append)
    assert result.made
    assert "4 of 4 truths are pictures without a world.json" in result.artifact.metadata["not_measured"]
    assert any("measured against rendered answers alone" in line for line in told)
    assert read_summary(lake, result.artifact) is None
    assert frontier_markdown(lake, result.artifact) is None
    assert frontier_preview(lake, result.artifact) is None
    # the file of the frontier before stays as long as its artifact is known; a stranger's goes
    stranger = Path(lake.uri) / "frontiers" / "0.parquet"
    stranger.write_bytes(b"")
    plan = plan_garbage(lake, keep_seconds=0, safety_seconds=0)
    assert [item.name for item in plan.waste if item.kind == "frontiers without an artifact"] == [
        "frontiers/0.parquet"
    ]
    assert made.location not in plan.locations


def test_scales_rise_and_methods_are_named_after_what_the_inversion_sees() -> None:
    sweep = SweepConfig()
    assert sweep.methods == ("teacher", *(f"teacher_inversion:{name}" for name in CONDITIONINGS), "student")
    assert set(CONDITIONINGS) == set(InversionConditioning.__args__)
    for scales in ((2.0, 1.0), (1.0, 1.0), ()):
        with pytest.raises(ValidationError):
            SweepConfig(scales=scales)
