"""Whether the repository is as good as its result file says: scored again, page and hash compared.

Pairs and noise are those of the file, so what differs is not the sample: a quarter of a row's interval is
more than rounding on another machine moves, and less than other weights or other code would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benches.leaderboard.collect import figures
from benches.leaderboard.photographs import fill_with_benchmark
from benches.leaderboard.plan import BASE, BASELINE, Entrant, Plan, bench_parts
from benches.leaderboard.report import report_files
from benches.leaderboard.results import BETTER_UP, Figure, Leaderboard, Row
from benches.leaderboard.rounds import PROMPTS, REFERENCES, pair_id, reference, run_needed
from benches.leaderboard.scoring import ANNOTATED, Bench
from models.swap.checkpoint import MANIFEST_NAME, file_sha256
from models.swap.lora_files import FILE_NAME
from models.worlds.benchmark import benchmark_hash, benchmark_pairs
from pipeline.graph import build_graph
from resources.lake.lake import Lake

CHECKPOINTS = Path("models/swap/checkpoints")
SHIPPED = {
    "teacher": Entrant(BASELINE, BASELINE, "teacher"),
    "student": Entrant(BASELINE, BASELINE, "student"),
}
"""Adapters that the repository may hold, each a checkpoint's folder of that name in `CHECKPOINTS`."""

SHARE_OF_INTERVAL = 0.25
LEAST = 1e-3
"""Tolerance where an interval has no width, as a share of the value."""

COMMAND = "python -m benches.leaderboard shipped"


def score_shipped(
    work: Path,
    root: Path,
    plan: Plan,
    scale: float,
    units: dict[str, float],
    report: Callable[[str], None],
) -> tuple[tuple[Row, ...], dict[str, str]]:
    """Rows of the references, the base and the adapters in the repository, and SHA-256 of the adapters.

    Args:
        work: an empty folder for photographs and lake.
        root: the repository.
        plan: how many pairs, and how large their photographs are.
        scale: identity guidance.
        units: of the attributes' overall error.
        report: told what is being done.
    """
    parts = bench_parts(plan)
    lake = Lake.open(work / "lake", create=True)
    report(f"rendering and annotating {plan.pairs} pairs")
    fill_with_benchmark(lake, work, plan.pairs, plan.photo_size)
    run_needed(lake, build_graph(parts), [*ANNOTATED, PROMPTS])
    bench = Bench(lake, parts, [pair_id(row) for row in range(plan.pairs)], report)

    def row(name: str, method: str, scale: float | None, values: dict) -> Row:
        stacked = {metric: found[None] for metric, found in values.items()}
        return Row(
            name=name,
            method=method,
            id_guidance_scale=scale,
            pairs=len(bench.pairs),
            compared_at=bench.size,
            metrics=figures(stacked, units),
            command=COMMAND,
        )

    rows = [row(name, name, None, reference(bench, name, 0).values) for name in REFERENCES]
    pictures = bench.swap(Entrant(BASE, None, BASE), scale, None)
    rows.append(row(BASE, BASE, scale, bench.score(pictures)))
    digests = {}
    for name, entrant in SHIPPED.items():
        folder = root / CHECKPOINTS / name
        if not (folder / MANIFEST_NAME).is_file():
            report(f"no {name} is in the repository")
            continue
        digests[name] = file_sha256(folder / FILE_NAME)
        report(f"swapping by the {name} of the repository")
        pictures = bench.swap(entrant, scale, folder)
        rows.append(row(entrant.name, entrant.method, scale, bench.score(pictures)))
    return tuple(rows), digests


def regressions(old: Sequence[Row], new: Sequence[Row]) -> list[str]:
    """What is worse than in the result file by more than its tolerance, one line each; lacking rows, too."""
    found = []
    fresh = {row.key: row for row in new}
    for row in old:
        again = fresh.get(row.key)
        if again is None:
            found.append(f"{row.key.label}: it is in the result file, and not in the repository any more")
            continue
        for metric, before in row.metrics.items():
            after = again.metrics.get(metric)
            if before.mean is None:
                continue
            if after is None or after.mean is None:
                found.append(
                    f"{row.key.label}, {metric}: it was {before.mean:g} and is not measured any more"
                )
                continue
            worse = before.mean - after.mean if metric in BETTER_UP else after.mean - before.mean
            allowed = tolerance(before)
            if worse > allowed:
                found.append(
                    f"{row.key.label}, {metric}: {before.mean:g} before, {after.mean:g} now, worse by "
                    f"{worse:.4g}, tolerance {allowed:.4g}"
                )
    return found


def tolerance(before: Figure) -> float:
    """By how much a metric may get worse: a quarter of its interval's half width."""
    least = LEAST * abs(before.mean or 0.0)
    if before.low is None or before.high is None:
        return least
    return max(SHARE_OF_INTERVAL * (before.high - before.low) / 2, least)


def wrong_hash(board: Leaderboard) -> list[str]:
    """Whether this program makes another benchmark than the result file is of."""
    now = benchmark_hash(benchmark_pairs(board.benchmark.pairs, board.benchmark.seed))
    if now == board.benchmark.hash:
        return []
    return [
        f"benchmark: the result file is of {board.benchmark.hash[:12]}, this program makes "
        f"{now[:12]}; figures "
        "of both cannot be compared: run the leaderboard anew"
    ]


def stale_pages(board: Leaderboard, root: Path) -> list[str]:
    """Which of page and figures are not what the result file gives."""
    found = []
    for path, text in report_files(board).items():
        place = root / path
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            found.append(f"{path}: not what the result file gives; `python -m benches.leaderboard report`")
    return found


def changed_weights(board: Leaderboard, digests: dict[str, str]) -> list[str]:
    """Adapters in the repository that the result file does not know."""
    return [
        f"{name}: the repository's adapters are {digest[:12]}, the result file is of "
        f"{board.shipped_sha256.get(name, 'none')[:12]}; `{COMMAND}`"
        for name, digest in digests.items()
        if board.shipped_sha256.get(name) != digest
    ]
