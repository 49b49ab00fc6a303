"""The report's part on identity against attributes: figures, the comparison at equal identity, and a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from assets.evaluation import CODEC_CEILING
from assets.frontier_file import Matched, Point, Summary, read_rows, read_summary
from assets.frontier_summary import ATTRIBUTES
from assets.planner import Planner
from assets.recipe_view import RecipeView
from pipeline.report.data import Picture
from pipeline.report.figures import Line, Mark, line_chart, line_colours
from pipeline.report.wording import METHODS, Method, Metric, in_order, method, metric
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake

CHARTED = (*ATTRIBUTES, "face_psnr")
NOT_FOUND = "Its file is gone from the lake; `orchard run frontier --force` measures again."


@dataclass(frozen=True)
class Legend:
    """A method and its colour in the figures."""

    method: Method
    colour: str


@dataclass(frozen=True)
class Difference:
    """An attribute's error less the reference's, or None where it was not measured."""

    text: str
    interval: str
    clear: str


@dataclass(frozen=True)
class MatchedRow:
    """One method at equal identity, one cell for each attribute."""

    method: Method
    level: str
    scale: str
    cells: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Axis:
    """Everything over one measure of identity: SVG figures, the comparison, and what it says in words."""

    metric: Metric
    charts: tuple[str, ...]
    attributes: tuple[Metric, ...]
    rows: tuple[MatchedRow, ...]
    unmatched: tuple[str, ...]
    verdict: tuple[str, ...]


@dataclass(frozen=True)
class GridRow:
    """One method's swaps of a pair over the guidance scales."""

    method: Method
    pictures: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class Grid:
    """One pair over all methods and scales."""

    pair_id: str
    source_id: str
    target_id: str
    rows: tuple[GridRow, ...]


@dataclass(frozen=True)
class FrontierPart:
    """The part of the page. `note` says why there are no figures; empty where there are."""

    pairs: int
    reference: Method
    axes: tuple[Axis, ...]
    legend: tuple[Legend, ...]
    grids: tuple[Grid, ...]
    outdated: bool
    note: str = ""


def frontier_part(planner: Planner, view: RecipeView) -> FrontierPart | None:
    """What the current frontier of a recipe shows; None where there is none yet."""
    artifact = planner.lake.current_artifact(view.own("frontier"))
    if artifact is None:
        return None
    plan = planner.artifact(artifact.stage)
    outdated = plan.stale or plan.waiting
    try:
        summary = read_summary(planner.lake, artifact)
        grids = _grids(planner.lake, artifact)
    except (LakeError, OSError, pa.ArrowException):
        return FrontierPart(0, method("teacher"), (), (), (), outdated, NOT_FOUND)
    if summary is None:
        note = f"Not measured: {artifact.metadata.get('not_measured', 'nothing to measure')}."
        return FrontierPart(0, method("teacher"), (), (), (), outdated, note)
    # the ceiling is far from all others and would squeeze them together; its figures are in the tables
    drawn = {point.method for point in summary.points} - {CODEC_CEILING}
    order = in_order(drawn, METHODS)
    lines = [Line(method(key).name, (), method(key).reference or key == "mesh_warp") for key in order]
    legend = tuple(
        Legend(method(key), colour) for key, colour in zip(order, line_colours(lines), strict=True)
    )
    return FrontierPart(
        pairs=summary.pairs,
        reference=method(summary.reference),
        axes=tuple(_axis(summary, name, order) for name in summary.axes),
        legend=legend,
        grids=grids,
        outdated=outdated,
    )


def _axis(summary: Summary, name: str, order: Sequence[str]) -> Axis:
    found = {(point.method, point.scale, point.metric): point for point in summary.points}
    measured = [key for key in CHARTED if any(point.metric == key for point in summary.points)]
    charts = tuple(
        line_chart(
            [_line(key, name, other, summary.points, found) for key in order],
            metric(name).name,
            metric(other).name,
        )
        for other in measured
    )
    matched = {(item.method, item.metric): item for item in summary.matched if item.axis == name}
    attributes = [key for key in ATTRIBUTES if any(column == key for _, column in matched)]
    methods = [key for key in order if any(row == key for row, _ in matched) and key != summary.reference]
    return Axis(
        metric=metric(name),
        charts=charts,
        attributes=tuple(metric(key) for key in attributes),
        rows=tuple(_matched_row(key, attributes, matched) for key in methods),
        unmatched=tuple(method(key).name for key in summary.unmatched[name] if key != summary.reference),
        verdict=tuple(_verdict(key, summary.reference, name, attributes, matched) for key in methods),
    )


def _line(
    key: str,
    axis: str,
    other: str,
    points: Sequence[Point],
    found: dict[tuple[str, float | None, str], Point],
) -> Line:
    scales = dict.fromkeys(point.scale for point in points if point.method == key)
    marks = []
    for scale in scales:
        x, y = found.get((key, scale, axis)), found.get((key, scale, other))
        if x is not None and y is not None:
            told = f"{x.mean:.3g}, {y.mean:.3g}" + ("" if scale is None else f" at guidance {scale:g}")
            marks.append(Mark(x.mean, y.mean, x.low, x.high, y.low, y.high, told))
    return Line(method(key).name, tuple(marks), method(key).reference or key == "mesh_warp")


def _matched_row(key: str, attributes: Sequence[str], matched: dict[tuple[str, str], Matched]) -> MatchedRow:
    items = [matched.get((key, name)) for name in attributes]
    first = next(item for item in items if item is not None)
    cells = tuple(
        None if item is None else _difference(item, metric(name))
        for name, item in zip(attributes, items, strict=True)
    )
    return MatchedRow(method(key), f"{first.level:.2f}", f"{first.scale:.1f}", cells)


def _difference(item: Matched, shown: Metric) -> Difference:
    low, high = item.difference_low, item.difference_high
    if low is None or high is None:
        return Difference(shown.text(item.difference), "no interval", "")
    clear = "better" if high < 0 else "worse" if low > 0 else ""
    return Difference(shown.text(item.difference), f"{shown.text(low)} to {shown.text(high)}", clear)


def _verdict(
    key: str, reference: str, axis: str, attributes: Sequence[str], matched: dict[tuple[str, str], Matched]
) -> str:
    """One sentence: in which attributes a method differs from the reference beyond what chance explains."""
    better, worse, open_ones = [], [], []
    for name in attributes:
        item = matched.get((key, name))
        if item is None:
            continue
        word = metric(name).name.removesuffix(" error")
        clear = _difference(item, metric(name)).clear
        (better if clear == "better" else worse if clear == "worse" else open_ones).append(word)
    parts = [
        *([f"keeps {_listed(better)} better"] if better else []),
        *([f"loses more of {_listed(worse)}"] if worse else []),
        *([f"is not told apart in {_listed(open_ones)}"] if open_ones else []),
    ]
    name, other = method(key).name, method(reference).name
    return (
        f"Where {name} and {other} show as much identity ({metric(axis).name}), {name} {'; it '.join(parts)}."
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _grids(lake: Lake, artifact: Artifact) -> tuple[Grid, ...]:
    names = ["pair_id", "source_image_id", "target_image_id", "method", "scale", "swap"]
    rows = [row for row in read_rows(lake, artifact, names) if row["swap"] is not None]
    grids = []
    for pair_id in dict.fromkeys(row["pair_id"] for row in rows):
        own = [row for row in rows if row["pair_id"] == pair_id]
        lines = []
        for key in in_order({row["method"] for row in own}, METHODS):
            pictures = tuple(
                (f"{row['scale']:g}", _picture(row["swap"], key, row["scale"]))
                for row in own
                if row["method"] == key
            )
            lines.append(GridRow(method(key), pictures))
        ends = (own[0]["source_image_id"], own[0]["target_image_id"])
        grids.append(Grid(pair_id, *ends, tuple(lines)))
    return tuple(grids)


def _picture(data: bytes, key: str, scale: float) -> Picture:
    words = f"{method(key).name} at guidance {scale:g}"
    return Picture(data, f"frontier: {words}", words, pixelated=True)
