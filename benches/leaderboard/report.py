"""docs/leaderboard.md and its figures, written from the result file and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from assets.diffface_config import DIFFFACE
from assets.frontier_summary import ATTRIBUTES
from benches.leaderboard.figures import frontier_svg, swept_curves
from benches.leaderboard.results import (
    LEAK,
    OVERALL,
    RESULT,
    SIMILARITY,
    Comparison,
    Difference,
    Figure,
    Leaderboard,
    Row,
)
from models.worlds.benchmark import HASH_DIGITS

PAGE = Path("docs/leaderboard.md")
IDENTITY_FIGURE = "leaderboard_identity.svg"
LEAK_FIGURE = "leaderboard_leak.svg"
GRID = "leaderboard_grid.jpg"
MAIN = ("rank_1_of_20", "leak", "face_psnr", "psnr", SIMILARITY, LEAK, OVERALL)
NOT_SHOWN = (
    "No photograph of a real person takes part: people and truths are rendered. Nothing is said of "
    "photographs.",
    "One small network (2 million parameters, 32 px) stands for all; sizes and bases are not varied.",
    "The base learnt exact swaps from the squeezed condition image before APPLE began, so a teacher is "
    "trained gently and `base` stands beside it; a black condition image it had never seen, and "
    "inpainting's rows show what so short a training makes of that rather than what inpainting could do.",
    "All is measured at 32 px, where a gaze or a thin frame is a pixel or two.",
    f"`{SIMILARITY}` is judged by the network of the identity path and of the identity loss, so it flatters "
    "all trained rows; `rank_1_of_20` compares with rendered pictures and has no network.",
    "Head pose and expression are not measured here; `orchard bench score` measures both on pictures "
    "of any size.",
    "With few training seeds a bootstrap over seeds is coarse: intervals of trained rows may be too narrow.",
)

SWEPT_ELSEWHERE = (
    "DiffFace is one point here, at its profile's settings; what its own arguments trade is "
    "[measured apart](diffface.md#measured)."
)


def write_report(board: Leaderboard, root: Path) -> list[Path]:
    """Write page and frontier figures below `root`; returns what was written."""
    written = []
    for path, text in report_files(board).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        written.append(place)
    return written


def report_files(board: Leaderboard) -> dict[Path, str]:
    """Text of page and figures, by path."""
    figures = RESULT.parent
    return {
        PAGE: page(board),
        figures / IDENTITY_FIGURE: frontier_svg(
            swept_curves(board, "rank_1_of_20"),
            "rank_1_of_20",
            "Identity by render retrieval against attribute error",
        ),
        figures / LEAK_FIGURE: frontier_svg(
            swept_curves(board, "leak"),
            "leak",
            "Freedom from the target's face against attribute error",
            inverted=True,
        ),
    }


def page(board: Leaderboard) -> str:
    """The Markdown page."""
    lines = [
        "# Leaderboard",
        "",
        f"Written by `python -m benches.leaderboard report` from [its figures]({_link(RESULT)}); edit "
        "neither.",
        "",
        *_benchmark(board),
        *_tables(board),
        *_frontiers(board),
        *_answers(board),
        *_pictures(board),
        *_seeds(board),
        *_shipped(board),
        *_added(board),
        *_made(board),
        "## Not shown",
        "",
        *(f"- {text}" for text in (*NOT_SHOWN, *_absent(board))),
    ]
    return "\n".join(lines) + "\n"


def _absent(board: Leaderboard) -> list[str]:
    guided = any(row.name == DIFFFACE for row in board.rows)
    return [SWEPT_ELSEWHERE if guided else "DiffFace has no row yet."]


def _benchmark(board: Leaderboard) -> list[str]:
    item = board.benchmark
    left = f" ({len(item.left_out)} left out: a stage found no face)" if item.left_out else ""
    return [
        f"Benchmark `{item.hash[:HASH_DIGITS]}`: version {item.version}, world {item.world_version}, "
        f"{item.measured} of {item.pairs} pairs{left}. Nobody in it is trained on. Pictures are compared at "
        f"{board.rows[0].compared_at} px. Trained rows are means over training "
        f"{'seed' if len(board.seeds) == 1 else 'seeds'} {_list(board.seeds)}.",
        "",
        "Brackets are 95 % intervals of a bootstrap that draws training seeds and pairs. "
        "`rank_1_of_20`, `leak` "
        f"and every attribute are defined in [the benchmark](benchmark.md); `{OVERALL}` is the mean of the "
        f"{len(ATTRIBUTES)} attribute errors, each as a share of the baseline teacher's at identity guidance "
        f"{board.recommended_scale:g}.",
        "",
    ]


def _tables(board: Leaderboard) -> list[str]:
    rows = [row for row in board.rows if row.id_guidance_scale in (None, board.recommended_scale)]
    lines = [f"## At identity guidance {board.recommended_scale:g}", ""]
    lines += _table(rows, [name for name in MAIN if any(name in row.metrics for row in rows)])
    lines += ["", "Attributes, errors in the benchmark's units, lower is better:", ""]
    return [*lines, *_table(rows, ATTRIBUTES), ""]


def _table(rows: Sequence[Row], metrics: Sequence[str], *, scales: bool = False) -> list[str]:
    head = ["method", *(["guidance"] if scales else []), *metrics]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        scale = [_scale(row)] if scales else []
        cells = [_cell(row.metrics.get(name)) for name in metrics]
        lines.append(f"| {' | '.join([_method(row), *scale, *cells])} |")
    return lines


def _method(row: Row) -> str:
    return f"`{row.key.label}`"


def _scale(row: Row) -> str:
    return "" if row.id_guidance_scale is None else f"{row.id_guidance_scale:g}"


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.mean is None or figure.low is None or figure.high is None:
        return "not measured"
    return f"{_number(figure.mean)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def _frontiers(board: Leaderboard) -> list[str]:
    swept = [row for row in board.rows if row.id_guidance_scale is not None]
    return [
        "## Frontiers",
        "",
        "A method is a curve over its identity guidance: more of the source costs attributes. Right "
        "and low is "
        "better.",
        "",
        f"![Frontiers by render retrieval]({_link(RESULT.parent / IDENTITY_FIGURE)})",
        f"![Frontiers by leak]({_link(RESULT.parent / LEAK_FIGURE)})",
        "",
        *_table(swept, ["rank_1_of_20", "leak", SIMILARITY, OVERALL, "face_psnr"], scales=True),
        "",
    ]


def _answers(board: Leaderboard) -> list[str]:
    lines = [
        "## Answers",
        "",
        "Both methods are compared where their curves show equally much identity, pair by pair, seed by "
        "seed. A verdict is computed: *yes* where the whole interval of the difference in attribute error "
        "lies below 0, *no* where it lies above, *not shown* otherwise. Where no identity is shared, the two "
        "nearest points are compared in both: *yes* where one is better for certain and the other not worse. "
        "Tables give the method's error less the reference's, of the reference's.",
        "",
    ]
    texts = dict.fromkeys(item.question for item in board.comparisons)
    for text in texts:
        found = [item for item in board.comparisons if item.question == text]
        first = found[0]
        lines += [f"### {text}", "", f"`{first.method}` against `{first.reference}`.", ""]
        lines += [f"- By `{item.axis}`: **{item.verdict}**; {item.because}." for item in found]
        lines += ["", *_differences(found), ""]
    return lines


def _differences(found: Sequence[Comparison]) -> list[str]:
    """Errors of the method less the reference's, a column per measure of identity."""
    lines = [f"| error | {' | '.join(f'by `{item.axis}`' for item in found)} |"]
    lines.append(f"|{'---|' * (len(found) + 1)}")
    parts = [{part.metric: part for part in item.differences} for item in found]
    for metric in dict.fromkeys(name for item in parts for name in item):
        cells = [_difference(item.get(metric)) for item in parts]
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return lines


def _difference(part: Difference | None) -> str:
    if part is None:
        return "not measured"
    ends = "" if part.low is None else f" [{part.low:+.3g}, {part.high:+.3g}]"
    return f"{part.difference:+.3g}{ends} of {part.reference:.3g}"


def _pictures(board: Leaderboard) -> list[str]:
    if not board.grid_columns:
        return []
    names = ", ".join(f"{number} {name}" for number, name in enumerate(board.grid_columns, start=1))
    return [
        "## Pictures",
        "",
        "The first pairs of the benchmark, not chosen; identity guidance "
        f"{board.recommended_scale:g}, training "
        f"seed {board.seeds[0]}. All people are rendered.",
        "",
        f"![Swaps of the benchmark]({_link(RESULT.parent / GRID)})",
        "",
        f"{names}.",
        "",
    ]


def _seeds(board: Leaderboard) -> list[str]:
    if len(board.seeds) < 2:
        return []
    rows = [row for row in board.rows if row.seeds and row.id_guidance_scale == board.recommended_scale]
    head = [f"{name}, seed {seed}" for name in ("rank_1_of_20", OVERALL) for seed in board.seeds]
    lines = ["## Training seeds", "", f"| method | {' | '.join(head)} |", f"|{'---|' * (len(head) + 1)}"]
    for row in rows:
        cells = [
            "" if value is None else _number(value)
            for name in ("rank_1_of_20", OVERALL)
            for value in row.metrics[name].per_seed
        ]
        lines.append(f"| {_method(row)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shipped(board: Leaderboard) -> list[str]:
    if not board.shipped:
        return []
    metrics = [name for name in MAIN if name in board.shipped[0].metrics]
    return [
        "## The checkpoints in this repository",
        "",
        "Measured by `python -m benches.leaderboard shipped`, held by `make bench-check`.",
        "",
        *_table(board.shipped, metrics, scales=True),
        "",
        "Attributes:",
        "",
        *_table(board.shipped, ATTRIBUTES, scales=True),
        "",
    ]


def _added(board: Leaderboard) -> list[str]:
    if not board.added:
        return []
    metrics = list(dict.fromkeys(name for row in board.added for name in row.metrics))
    sizes = ", ".join(f"`{row.name}` at {row.compared_at} px" for row in board.added)
    return [
        "## Other programs",
        "",
        f"Scored by `orchard bench score DIR`, compared at other sizes than above: {sizes}.",
        "",
        *_table(board.added, metrics),
        "",
    ]


def _made(board: Leaderboard) -> list[str]:
    plan = ", ".join(f"{name} {_plain(value)}" for name, value in board.plan.items())
    steps = ", ".join(f"`{name}` {count}" for name, count in board.steps.items())
    commands = dict.fromkeys(row.command for row in (*board.rows, *board.shipped, *board.added))
    return [
        "## How it was made",
        "",
        "```",
        *commands,
        "```",
        "",
        f"On {board.date}, with the base `{board.base_file_sha256[:12]}` and the embedder "
        f"`{board.embedder_sha256[:12]}` of this repository. Plan: {plan}.",
        "",
        f"Optimiser steps behind each checkpoint: {steps}. `teacher_long` and `supervised` are single "
        "trainings "
        "of about the compute of teacher and student; `teacher_long` counts the making of the triplets too.",
        "",
    ]


def _plain(value: object) -> str:
    return _list(value) if isinstance(value, (list, tuple)) else str(value)


def _list(values: Iterable) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _link(path: Path) -> str:
    return os.path.relpath(path, PAGE.parent)
