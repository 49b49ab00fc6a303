"""Small line charts as inline SVG: a method's way through identity and error as guidance grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
TICKS = 4
COLOURS = ("#2f7fb8", "#c9572c", "#3f9a5f", "#9464b4", "#b8902f", "#c04f80", "#6b7680", "#2aa198")
"""Readable on light and on dark paper."""

REFERENCE_COLOUR = "#8a939b"


@dataclass(frozen=True)
class Mark:
    """One point: place, ends of both intervals, and what the browser tells about it."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    told: str


@dataclass(frozen=True)
class Line:
    """One method: its points in the order of guidance. A `reference` is drawn as a grey diamond."""

    name: str
    marks: tuple[Mark, ...]
    reference: bool = False


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """An SVG of the lines, with axes over all points, and crosses for the 95 % intervals."""
    marks = [mark for line in lines for mark in line.marks]
    if not marks:
        raise ValueError("a chart needs a point")
    x_axis = _Axis([mark.x for mark in marks], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([mark.y for mark in marks], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} over {escape(x_label)}">'
    ]
    for value in x_axis.ticks:
        x = x_axis.place(value)
        parts.append(_segment(x, TOP, x, HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x, HEIGHT - BOTTOM + 14, f"{value:.3g}", "middle"))
    for value in y_axis.ticks:
        y = y_axis.place(value)
        parts.append(_segment(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LEFT - 5, y + 3, f"{value:.3g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    parts.append(
        f'<text x="11" y="{(TOP + HEIGHT - BOTTOM) / 2:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 11 {(TOP + HEIGHT - BOTTOM) / 2:.1f})">{escape(y_label)}</text>'
    )
    for line, colour in zip(lines, line_colours(lines), strict=True):
        parts += _line(line, colour, x_axis, y_axis)
    return "".join([*parts, "</svg>"])


def line_colours(lines: Sequence[Line]) -> list[str]:
    """A colour for each line, for chart and legend alike."""
    free = iter(COLOURS * (1 + len(lines) // len(COLOURS)))
    return [REFERENCE_COLOUR if line.reference else next(free) for line in lines]


class _Axis:
    """From values to places in the picture, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        """Where a value lies, px; values outside are drawn at the border."""
        share = (value - self._low) / (self._high - self._low)
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        rough = (self._high - self._low) / TICKS
        power = 1.0
        while power > rough:
            power /= 10
        while power * 10 <= rough:
            power *= 10
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = -int(-self._low // step) if self._low < 0 else int(self._low // step) + 1
        return [
            value
            for index in range(first - 1, first + 3 * TICKS)
            if self._low <= (value := round(index * step, 12)) <= self._high
        ]


def _line(line: Line, colour: str, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    places = [(x_axis.place(mark.x), y_axis.place(mark.y)) for mark in line.marks]
    parts = []
    if len(places) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    for mark, (x, y) in zip(line.marks, places, strict=True):
        cross = (
            (x_axis.place(mark.x_low), y, x_axis.place(mark.x_high), y),
            (x, y_axis.place(mark.y_low), x, y_axis.place(mark.y_high)),
        )
        parts += [
            f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{colour}" '
            'stroke-opacity="0.35"/>'
            for a, b, c, d in cross
        ]
        shape = (
            f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="{colour}">'
            if line.reference
            else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}">'
        )
        end = "</path>" if line.reference else "</circle>"
        parts.append(f"{shape}<title>{escape(f'{line.name}: {mark.told}')}</title>{end}")
    return parts


def _segment(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
