"""The leaderboard's pictures: frontiers as SVG, so that equal figures give equal bytes, and a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benches.leaderboard.results import OVERALL, Figure, Leaderboard, Row

WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 64, 250, 34, 52
COLOURS = (
    "#1f5f8b", "#c8553d", "#3c8d5a", "#8a5fbf", "#b8860b", "#4a4a4a", "#d6729b", "#2aa198", "#7f9c1a",
    "#a0522d", "#5577cc", "#999999",
)  # fmt: skip
TILE = 64
HEADER = 18
GRID_QUALITY = 88


Metrics = Mapping[str, Figure]


def swept_curves(board: Leaderboard, axis: str) -> dict[str, list[Metrics]]:
    """Metrics of every method by label, over its guidance scale; what is not swept is one point."""
    curves: dict[str, list[Row]] = {}
    for row in board.rows:
        if row.id_guidance_scale is not None and row.metrics[axis].mean is not None:
            curves.setdefault(row.key.label, []).append(row)
    singles = [row for row in board.rows if row.id_guidance_scale is None]
    found: dict[str, list[Metrics]] = {
        label: [row.metrics for row in sorted(rows, key=lambda row: row.id_guidance_scale or 0)]
        for label, rows in curves.items()
    }
    found |= {row.key.label: [row.metrics] for row in singles}
    return found


def frontier_svg(
    curves: Mapping[str, Sequence[Metrics]], axis: str, title: str, *, inverted: bool = False
) -> str:
    """Sweeps by label: a measure of identity across, the attribute error up, lower is better.

    `inverted` shows 1 less the measure, for a leak. Points are swept values, bars 95 % intervals.
    """
    places = {
        label: [_point(metrics, axis, inverted) for metrics in points] for label, points in curves.items()
    }
    drawn = {label: points for label, points in places.items() if all(_finite(point) for point in points)}
    across = _range([value for points in drawn.values() for point in points for value in point["x"]])
    up = _range([value for points in drawn.values() for point in points for value in point["y"]])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_axes(across, up, f"1 - {axis}" if inverted else axis),
    ]
    for index, (label, points) in enumerate(drawn.items()):
        parts += _curve(label, points, COLOURS[index % len(COLOURS)], index, across, up)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _point(metrics: Metrics, axis: str, inverted: bool) -> dict[str, tuple[float, ...]]:
    """Mean, low and high on both axes."""
    identity, error = metrics[axis], metrics[OVERALL]
    across = tuple(
        math.nan if value is None else value for value in (identity.mean, identity.low, identity.high)
    )
    if inverted:
        across = tuple(1.0 - value for value in across)
    up = tuple(math.nan if value is None else value for value in (error.mean, error.low, error.high))
    return {"x": across, "y": up}


def _finite(point: Mapping[str, tuple[float, ...]]) -> bool:
    return all(math.isfinite(value) for values in point.values() for value in values)


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _across(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _up(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - TOP - BOTTOM)


def _axes(across: tuple[float, float], up: tuple[float, float], axis: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" '
        'stroke="#888"/>',
        f'<text x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(axis)} '
        "(more of the source: right)</text>",
        f'<text transform="translate(16 {(TOP + bottom) / 2:.1f}) rotate(-90)" text-anchor="middle">'
        "attribute error (lower is better)</text>",
    ]
    for value in _ticks(across):
        x = _across(value, across)
        parts += [
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#eee"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>',
        ]
    for value in _ticks(up):
        y = _up(value, up)
        parts += [
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#eee"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    return parts


def _ticks(span: tuple[float, float]) -> list[float]:
    step = 10.0 ** math.floor(math.log10((span[1] - span[0]) / 2))
    for factor in (1, 2, 5, 10):
        if (span[1] - span[0]) / (step * factor) <= 8:
            step *= factor
            break
    first = math.ceil(span[0] / step)
    return [round(index * step, 6) for index in range(first, math.floor(span[1] / step) + 1)]


def _curve(
    label: str,
    points: list[dict[str, tuple[float, ...]]],
    colour: str,
    index: int,
    across: tuple[float, float],
    up: tuple[float, float],
) -> list[str]:
    places = [(_across(point["x"][0], across), _up(point["y"][0], up)) for point in points]
    parts = []
    for point, (x, y) in zip(points, places, strict=True):
        ends = (
            [_across(value, across) for value in point["x"][1:]],
            [_up(value, up) for value in point["y"][1:]],
        )
        parts += [
            f'<path d="M{ends[0][0]:.1f} {y:.1f}H{ends[0][1]:.1f}M{x:.1f} {ends[1][0]:.1f}V{ends[1][1]:.1f}" '
            f'stroke="{colour}" stroke-opacity="0.35" fill="none"/>',
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>',
        ]
    if len(places) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    y = TOP + 14 + 20 * index
    return [
        *parts,
        f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>',
        f'<text x="{WIDTH - RIGHT + 26}" y="{y}">{escape(label)}</text>',
    ]


def write_grid(path: Path, columns: Mapping[str, NDArray[np.uint8]]) -> None:
    """Pairs from top to bottom, pictures uint8 RGB (M, S, S, 3) from left to right, under their numbers."""
    strips = []
    for number, pictures in enumerate(columns.values(), start=1):
        tiles = [cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_NEAREST) for picture in pictures]
        head = np.full((HEADER, TILE, 3), 255, np.uint8)
        cv2.putText(head, str(number), (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
        strips.append(np.concatenate([head, *tiles]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips, axis=1)).save(path, quality=GRID_QUALITY)
