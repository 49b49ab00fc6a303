"""The report's parts on guidance and on published measures: figures, comparison, pictures, gaps."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from assets.frontier_file import read_rows, read_summary
from assets.stage import StageGraph
from pipeline.report import ReportData, collect, render
from pipeline.report.figures import COLOURS, Line, Mark, line_chart
from resources.lake.lake import Lake
from resources.photos.marking import read_mark


def test_every_method_has_a_curve_of_its_own_and_its_pictures_are_marked(
    smoke_lake: Any, finished: ReportData
) -> None:
    artifact = smoke_lake.lake.current_artifact("frontier")
    summary = read_summary(smoke_lake.lake, artifact)
    assert summary is not None
    part = finished.frontier
    assert part is not None
    assert (part.note, part.outdated, part.pairs) == ("", False, 4)
    swept = {point.method for point in summary.points if point.scale is not None}
    assert {"teacher", "student"} < swept
    assert [axis.metric.key for axis in part.axes] == ["rank_1_of_20", "id_similarity_world"]
    assert {item.method.key for item in part.legend} == {point.method for point in summary.points} - {
        "codec_ceiling"
    }
    for axis in part.axes:
        for chart in axis.charts:
            assert len(ElementTree.fromstring(chart).findall("polyline")) == len(swept)
    kept = [row for row in read_rows(smoke_lake.lake, artifact) if row["swap"]]
    shown = [item for grid in part.grids for row in grid.rows for _, item in row.pictures]
    assert sorted(item.png for item in shown) == sorted(row["swap"] for row in kept)
    for row in kept:
        mark = read_mark(row["swap"])
        assert mark is not None
        assert mark.stage == f"frontier/{row['method']} at {row['scale']:g}"


def test_published_measures_are_shown_and_the_absent_ones_say_why(finished: ReportData) -> None:
    part = finished.protocol
    assert part is not None
    used = {column.name: column.used_in_training for column in part.columns}
    assert used["id_similarity_dlib"] is False
    assert "copy_target" in {row.method.key for row in part.rows}
    missing = dict(part.missing)
    assert "fid_inception" in missing
    text = render(finished)
    assert "As published tables measure" in text
    assert re.search(r"weight fid_inception is not here", text)


def test_a_frontier_that_was_cleaned_away_or_never_made_is_said(
    smoke_lake: Any, graph: StageGraph, finished: ReportData, tmp_path: Path
) -> None:
    uri = shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    shutil.rmtree(uri / "frontiers")
    part = collect(Lake.open(uri), graph, profile="smoke").frontier
    assert part is not None
    assert part.note.startswith("Its file is gone from the lake")
    text = render(dataclasses.replace(finished, frontier=None, protocol=None))
    assert "Identity guidance was not swept yet" in text
    assert "Not measured yet" in text


def test_a_chart_places_points_by_value_and_names_cannot_break_out() -> None:
    hostile = '<script>&"'
    lines = [
        Line("plain", (Mark(0, 10, 0, 0, 10, 10, "a"), Mark(1, 20, 0.5, 2, 15, 40, "b"))),
        Line(hostile, (Mark(0.5, 15, 0.4, 0.6, 15, 15, hostile),), reference=True),
    ]
    root = ElementTree.fromstring(line_chart(lines, "likeness", hostile))
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.findall("circle")]
    assert dots[0][0] < dots[1][0]
    assert dots[0][1] > dots[1][1]  # the picture's y runs down
    [line] = root.findall("polyline")
    assert line.attrib["stroke"] == COLOURS[0]
    width = float(root.attrib["viewBox"].split()[2])
    crosses = [item for item in root.findall("line") if "stroke-opacity" in item.attrib]
    assert all(0 <= float(item.attrib[name]) <= width for item in crosses for name in ("x1", "x2"))
    [diamond] = root.findall("path")
    assert diamond[0].text == f"{hostile}: {hostile}"
    ticks = {item.text for item in root.findall("text")}
    assert {"0", "0.5", "1", "10", "15", "20"} <= ticks
    with pytest.raises(ValueError, match="needs a point"):
        line_chart([], "x", "y")
