"""Figures of `benches.diffface` as a section of docs/diffface.md and as frontiers, from its result alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benches.leaderboard.figures import frontier_svg
from benches.leaderboard.results import BETTER_UP, OVERALL, Figure
from models.swap.config import FrozenConfig
from models.worlds.benchmark import HASH_DIGITS

PAGE = Path("docs/diffface.md")
RESULT = Path("benches/results/diffface.json")
GRID = "diffface_compat.jpg"
FRONTIERS = "diffface_frontiers.svg"
BEGIN = "<!-- written by `python -m benches.diffface`; edit nothing up to the end of figures -->"
END = "<!-- end of figures -->"
THRESHOLD, LOSS_WEIGHT = "masking_threshold", "loss_weight"
NAMES = ("rank_1_of_20", "leak", "face_psnr", "background_error", "outside_mask", "identity_distance")
SWEPT = ("rank_1_of_20", "leak", "face_psnr", OVERALL, "identity_distance")
TOLD = ("rank_1_of_20", "leak", "face_psnr", OVERALL)
NOT_MEASURED = (
    "Not measured yet with the denoiser of this repository: `python -m benches.diffface` measures, and "
    "writes this section."
)


class Variant(FrozenConfig):
    """One way to swap: the default, as published, or one argument at another value."""

    argument: str
    value: float | None = None

    @property
    def label(self) -> str:
        """How it is called in tables."""
        return self.argument if self.value is None else f"{self.argument} {self.value:g}"

    def measured(self, metrics: Mapping[str, Figure], seconds: float) -> Measured:
        """It with its figures."""
        return Measured(
            argument=self.argument,
            value=self.value,
            metrics=dict(metrics),
            cpu_seconds_per_swap=float(f"{seconds:.3g}"),
        )


DEFAULT, COMPAT = Variant(argument="default"), Variant(argument="--compat")


class Measured(Variant):
    """A variant and its figures."""

    metrics: dict[str, Figure]
    cpu_seconds_per_swap: float = Field(description="Of one repeat, on one core of the machine that ran it.")


class Change(FrozenConfig):
    """A variant less its reference, pair by pair."""

    variant: str
    reference: str
    differences: dict[str, Figure]


class DiffFaceResult(FrozenConfig):
    """The whole result file."""

    command: str
    date: str
    benchmark: str = Field(description="Hash of the pairs and of their answers.")
    pairs: int
    repeats: int
    compared_at: int = Field(description="Side of the pictures, px.")
    denoiser_sha256: str
    settings: dict[str, Any]
    rows: tuple[Measured, ...]
    changes: tuple[Change, ...]


def read_result(path: Path) -> DiffFaceResult:
    """The result file. Raises FileNotFoundError where there is none, ValueError for another content."""
    return DiffFaceResult.model_validate_json(path.read_text(encoding="utf-8"))


def write_page(result: DiffFaceResult, root: Path) -> list[Path]:
    """Write section and frontiers below `root`; returns what was written. ValueError without markers."""
    page, picture = root / PAGE, root / RESULT.with_name(FRONTIERS)
    page.write_text(with_section(page.read_text(encoding="utf-8"), section(result)), encoding="utf-8")
    picture.write_text(frontiers(result), encoding="utf-8")
    return [page, picture]


def with_section(text: str, section: str) -> str:
    """A page with another section between the markers. ValueError where they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE} must have the lines {BEGIN!r} and {END!r} once each")
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n\n{section}\n\n{END}",
        text,
        flags=re.DOTALL,
    )


def section_of(text: str) -> str:
    """What stands between the markers of a page."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def frontiers(result: DiffFaceResult) -> str:
    """Both sweeps as SVG: the source found among 20 across, attribute errors up."""
    curves = {
        name: [row.metrics for row in result.rows if row.argument == name]
        for name in (THRESHOLD, LOSS_WEIGHT)
    }
    singles = {row.label: [row.metrics] for row in result.rows if row.value is None}
    return frontier_svg(curves | singles, "rank_1_of_20", "DiffFace: what two arguments trade")


def section(result: DiffFaceResult | None) -> str:
    """The Markdown between the markers; what to run, where nothing was measured."""
    if result is None:
        return NOT_MEASURED
    sampled = (
        f"{result.settings['timestep_respacing']} steps of which {result.settings['skip_timesteps']} are"
    )
    first = [row for row in result.rows if row.value is None]
    compat, threshold = result.changes
    lines = [
        f"`{result.command}` on {result.date}: the first {result.pairs} pairs of the benchmark "
        f"`{result.benchmark[:HASH_DIGITS]}` at {result.compared_at} px, by the denoiser "
        f"`{result.denoiser_sha256[:HASH_DIGITS]}` of this repository; {sampled} skipped, {result.repeats} "
        f"repeat{'s' if result.repeats > 1 else ''} of each pair, the same noise for a pair in all rows. "
        "Brackets are 95 % intervals of a bootstrap over pairs.",
        "",
        *_table("", first, NAMES, seconds=True),
        "",
        f"{_told(compat)} Columns of the picture: source, target, exact answer, default, `--compat`; the "
        "first pairs, not chosen. All people are rendered.",
        "",
        f"![Corrected and as published]({_link(GRID)})",
        "",
        f"{_told(threshold)}",
        "",
        *_table(THRESHOLD, [row for row in result.rows if row.argument == THRESHOLD], SWEPT),
        "",
        *_table(LOSS_WEIGHT, [row for row in result.rows if row.argument == LOSS_WEIGHT], SWEPT),
        "",
        f"![Frontiers]({_link(FRONTIERS)})",
        "",
        f"`{OVERALL}` is the mean of the attribute errors of [the benchmark](benchmark.md), each as a share "
        "of the default's; `background_error` is the error against the exact answer outside both faces, "
        "`outside_mask` how far pixels outside the target's mask are from the target's, both in levels of "
        "255.",
    ]
    return "\n".join(lines)


def _table(
    name: str, rows: Sequence[Measured], metrics: Sequence[str], *, seconds: bool = False
) -> list[str]:
    head = [f"`{name}`" if name else "", *(f"`{metric}`" for metric in metrics)]
    head += ["CPU seconds per swap"] if seconds else []
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row.label if row.value is None else f"{row.value:g}"]
        cells += [_cell(row.metrics[metric]) for metric in metrics]
        cells += [f"{row.cpu_seconds_per_swap:.2f}"] if seconds else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(figure: Figure) -> str:
    if figure.mean is None or figure.low is None or figure.high is None:
        return "not measured"
    return f"{_number(figure.mean)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def _told(change: Change) -> str:
    """What a change does, in words that follow from its intervals."""
    parts = [_verdict(name, change.differences[name]) for name in TOLD]
    return f"`{change.variant}` less `{change.reference}`, pair by pair: {'; '.join(parts)}."


def _verdict(name: str, difference: Figure) -> str:
    if difference.mean is None or difference.low is None or difference.high is None:
        return f"`{name}` not measured"
    better = (difference.mean > 0) == (name in BETTER_UP)
    shown = difference.low > 0 or difference.high < 0
    word = ("better" if better else "worse") if shown else "no difference shown"
    return f"`{name}` {difference.mean:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}], {word}"


def _link(name: str) -> str:
    return os.path.relpath(RESULT.with_name(name), PAGE.parent)
