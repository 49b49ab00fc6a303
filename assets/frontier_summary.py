"""A frontier in figures and pictures: points with intervals, methods at equal identity, a table, a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from assets.evaluation_pairs import SMALL_PICTURES
from assets.frontier_config import TEACHER
from assets.frontier_file import FrontierRow, Matched, Point, Summary, read_rows, read_summary
from assets.previews import encode_png, tile_row
from models.metrics.frontier import Estimate, Frontier, MatchedMethod, compare_at_matched_identity
from models.metrics.intervals import mean_with_interval
from resources.lake.lake import Artifact, Lake
from resources.photos.decoding import decode_upright

AXES = ("rank_1_of_20", "id_similarity_world")
"""What identity is measured by, where it was: how often the source is found among 20, and a likeness."""

ATTRIBUTES = (
    "light_error",
    "lip_error",
    "makeup_error",
    "glasses_error",
    "gaze_error",
    "background_error",
)
"""What identity is paid with; lower is better."""

PREVIEW_TILE = 96


def summarise(rows: Sequence[FrontierRow], seed: int) -> Summary:
    """Means with intervals of every method and scale, and every method at equal identity with the teacher."""
    groups: dict[tuple[str, float | None], list[FrontierRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.scale), []).append(row)
    points = []
    for (method, scale), group in groups.items():
        for metric in group[0].values:
            values = np.array([row.values[metric] for row in group])
            known = values[np.isfinite(values)]
            if len(known):
                mean, low, high = mean_with_interval(known, seed=seed)
                points.append(
                    Point(
                        method=method,
                        scale=scale,
                        metric=metric,
                        mean=mean,
                        low=low,
                        high=high,
                        count=len(known),
                    )
                )
    measured = rows[0].values if rows else {}
    axes = tuple(axis for axis in AXES if axis in measured)
    matched: list[Matched] = []
    unmatched: dict[str, tuple[str, ...]] = {}
    for axis in axes:
        frontiers = {
            method: _frontier(method, groups, axis)
            for method in dict.fromkeys(method for method, scale in groups if scale is not None)
        }
        found = compare_at_matched_identity(frontiers, TEACHER, seed)
        unmatched[axis] = tuple(method for method, item in found.items() if item is None)
        for method, item in found.items():
            if item is not None:
                matched += _matched(axis, method, item)
    return Summary(
        reference=TEACHER,
        axes=axes,
        pairs=len({row.pair_id for row in rows}),
        points=tuple(points),
        matched=tuple(matched),
        unmatched=unmatched,
    )


def _frontier(method: str, groups: dict[tuple[str, float | None], list[FrontierRow]], axis: str) -> Frontier:
    scales = sorted(scale for name, scale in groups if name == method and scale is not None)

    def values(metric: str) -> np.ndarray:
        return np.array([[row.values[metric] for row in groups[method, scale]] for scale in scales])

    return Frontier(np.array(scales), values(axis), {name: values(name) for name in ATTRIBUTES})


def _matched(axis: str, method: str, item: MatchedMethod) -> list[Matched]:
    found = []
    for metric, error in item.errors.items():
        difference = item.differences[metric]
        if not math.isfinite(error.value):
            continue  # no pair shows this attribute
        low, high = _ends(error)
        difference_low, difference_high = _ends(difference)
        found.append(
            Matched(
                axis=axis,
                method=method,
                level=item.level,
                scale=item.scale,
                metric=metric,
                value=error.value,
                low=low,
                high=high,
                difference=difference.value,
                difference_low=difference_low,
                difference_high=difference_high,
            )
        )
    return found


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    if not math.isfinite(estimate.low):
        return None, None
    return estimate.low, estimate.high


def headline(summary: Summary) -> dict[str, Any]:
    """Figures for the artifact itself: how much identity each method shows at its best."""
    best: dict[str, Any] = {}
    for axis in summary.axes:
        for point in summary.points:
            name = f"{point.method}: most {axis}"
            if point.metric == axis and point.scale is not None and point.mean > best.get(name, -math.inf):
                best[name] = round(point.mean, 4)
    return best


def frontier_markdown(lake: Lake, artifact: Artifact) -> str | None:
    """Both tables as Markdown: every point, and the comparison at equal identity; None without any."""
    summary = read_summary(lake, artifact)
    if summary is None:
        return None
    shown = [*summary.axes, "leak", "face_psnr", *ATTRIBUTES]
    found = {(point.method, point.scale, point.metric): point for point in summary.points}
    lines = [f"| method | scale | {' | '.join(shown)} |", f"|{'---|' * (len(shown) + 2)}"]
    for method, scale in dict.fromkeys((point.method, point.scale) for point in summary.points):
        cells = [found.get((method, scale, metric)) for metric in shown]
        texts = ["" if cell is None else f"{cell.mean:.3g}" for cell in cells]
        lines.append(f"| {method} | {'' if scale is None else f'{scale:g}'} | {' | '.join(texts)} |")
    for axis in summary.axes:
        rows = [item for item in summary.matched if item.axis == axis]
        lines += ["", f"At equal {axis}, less {summary.reference} (95 % interval):", ""]
        lines += ["| method | level | scale | attribute | difference |", f"|{'---|' * 5}"]
        for item in rows:
            if item.method != summary.reference:
                ends = (
                    "no interval"
                    if item.difference_low is None or item.difference_high is None
                    else f"{item.difference_low:.3g} to {item.difference_high:.3g}"
                )
                lines.append(
                    f"| {item.method} | {item.level:.3g} | {item.scale:.2f} | {item.metric} | "
                    f"{item.difference:.3g} ({ends}) |"
                )
    return "\n".join(lines)


def frontier_preview(lake: Lake, artifact: Artifact) -> bytes | None:
    """The first pair by every method (rows) over the guidance scale (columns), as PNG; None without any."""
    rows = [row for row in read_rows(lake, artifact, ["pair_id", "method", "scale", "swap"]) if row["swap"]]
    if not rows:
        return None
    first = [row for row in rows if row["pair_id"] == rows[0]["pair_id"]]
    methods = dict.fromkeys(row["method"] for row in first)
    strips = [
        tile_row(
            [decode_upright(row["swap"], SMALL_PICTURES) for row in first if row["method"] == method],
            PREVIEW_TILE,
        )
        for method in methods
    ]
    return encode_png(np.concatenate(strips))
