"""The report of a lake that lacks something or has changed since, and the command that writes it."""

from __future__ import annotations

import html as markup
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from assets.stage import StageGraph
from pipeline.cli import app
from pipeline.report import ReportData, render
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs

Reporting = Callable[[Lake], ReportData]


def text_of(data: ReportData) -> str:
    """The words of a page, without its style."""
    bare = re.sub(r"<style>.*?</style>|<[^>]+>", " ", render(data), flags=re.DOTALL)
    return " ".join(markup.unescape(bare).split())


def test_a_lake_of_photographs_alone_gives_sentences_for_what_is_missing(
    photographs_only: Lake, report_of: Reporting
) -> None:
    data = report_of(photographs_only)
    text = text_of(data)
    assert data.missing == ("release", "teacher", "student", "evaluation", "swaps")
    for sentence in (
        "There is no teacher yet",
        "There is no student yet",
        "There is no evaluation yet",
        "There is no pair to swap yet",
        "Nothing has been released yet",
        "so there is annotation only",
        "Photographs that are annotated only: 3.",
        "annotation_only 3",
        "not_an_image 1",
    ):
        assert sentence in text
    assert [preview.stage for preview in data.previews] == ["faces"]
    assert {line.name: line.pending for line in data.stages}["landmarks"] > 0


def test_an_empty_lake_gives_a_page_too(tmp_path: Path, graph: StageGraph, report_of: Reporting) -> None:
    lake = Lake.open(tmp_path / "empty", create=True)
    graph.prepare(lake)
    data = report_of(lake)
    assert data.missing[0] == "annotation"
    assert "nothing sound has been ingested" in text_of(data)


def test_a_changed_photograph_makes_everything_after_it_outdated(
    smoke_lake: Any, finished: ReportData, tmp_path: Path, report_of: Reporting
) -> None:
    own = smoke_lake.copy_to(tmp_path)
    changed = finished.swaps[0].target_id
    Image.fromarray(np.full((96, 200, 3), 90, np.uint8)).save(
        own.folder / "photos" / f"{changed}.jpg", quality=95
    )
    ingest(own.lake, own.folder / "photos", shard_size=8)
    data = report_of(own.lake)
    assert data.release is not None
    assert data.release.outdated
    assert [checkpoint.outdated for checkpoint in data.checkpoints] == [True, True]
    assert data.evaluation is not None
    assert data.evaluation.outdated
    tiles = {tile.column: tile for tile in data.swaps[0].tiles}
    assert tiles["condition"].words == "not annotated"  # no old landmarks over the new photograph
    assert tiles["target"].picture is not None
    assert np.asarray(Image.open(io.BytesIO(tiles["target"].picture.png)).convert("RGB")).std() < 2
    methods = ("teacher", "teacher + inversion", "student", "mesh warp", "DiffFace")
    assert {tiles[name].words for name in methods} == {"outdated"}
    text = text_of(data)
    assert "These numbers are of an earlier state" in text
    assert "The lake has changed since this release" in text


def test_what_is_missing_or_unmarked_in_a_pair_is_said(
    smoke_lake: Any, finished: ReportData, tmp_path: Path, report_of: Reporting
) -> None:
    uri = shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    lake = Lake.open(uri)
    pairs = lake.swap_pairs.snapshot().dataset.to_table().to_pylist()
    store_swap_pairs(
        lake,
        [
            {**row, "truth": None if row["pair_id"] == finished.swaps[0].pair_id else row["truth"]}
            for row in pairs
        ],
    )
    swap = finished.swaps[1].pair_id + "__student"
    plain = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(plain, "PNG")
    lake.swaps.replace(pa.table({"pair_id": [swap], "swap": pa.array([plain.getvalue()], pa.binary())}))
    teacher = lake.current_artifact("teacher")
    assert teacher is not None
    shutil.rmtree(uri / str(teacher.location))
    (uri / teacher.metadata["losses"]).unlink()

    data = report_of(lake)
    first, second = data.swaps[:2]
    assert (first.tiles[-1].picture, first.tiles[-1].words) == (None, "no truth")
    assert second.tiles[-1].picture is not None
    assert second.tiles[5].words == "no readable mark"
    assert second.tiles[5].model_id is None
    assert data.checkpoints[0].curve is None
    assert data.checkpoints[1].curve is not None
    text = text_of(data)
    assert "19 of 20 marks" in text
    assert "Its folder is gone from the lake. The record of its losses is gone" in text


@pytest.fixture
def orchard() -> Callable[..., Any]:
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, ["report", "--profile", "smoke", *arguments])


def test_the_command_writes_into_the_lake_and_says_what_is_missing(
    photographs_only: Lake, orchard: Callable[..., Any], tmp_path: Path
) -> None:
    done = orchard("--lake", photographs_only.uri, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    path = Path(photographs_only.uri) / "report.html"
    assert told["path"] == str(path)
    assert told["bytes"] == path.stat().st_size
    assert (told["photographs"], told["swap_pairs_shown"], told["release"]) == (3, 0, None)
    elsewhere = tmp_path / "elsewhere" / "page.html"
    done = orchard("--lake", photographs_only.uri, "--out", str(elsewhere))
    assert "not in the lake yet: release, teacher, student, evaluation, swaps" in done.output
    assert elsewhere.read_bytes() == path.read_bytes()


def test_the_command_refuses_a_profile_that_does_not_exist(
    photographs_only: Lake, orchard: Callable[..., Any]
) -> None:
    done = orchard("--lake", photographs_only.uri, "--profile", "huge")
    assert done.exit_code != 0
    assert not (Path(photographs_only.uri) / "report.html").exists()
