"""Command line of the leaderboard; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benches.leaderboard.check import (
    changed_weights,
    regressions,
    score_shipped,
    stale_pages,
    wrong_hash,
)
from benches.leaderboard.collect import add_scores, collect, draw_grid, read_scores
from benches.leaderboard.plan import FAST, Plan
from benches.leaderboard.report import GRID, write_report
from benches.leaderboard.results import RESULT, Leaderboard, Row, read_result, write_result
from benches.leaderboard.rounds import run_seed
from benches.leaderboard.values import finished_seeds

LISTS = ("scales", "inversion_scales")
Scored = tuple[tuple[Row, ...], dict[str, str]]
Scorer = Callable[[Leaderboard, Path, Path], Scored]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    result = options.root / RESULT
    match options.command:
        case "run":
            for seed in options.seeds:
                run_seed(options.work, seed, _plan(options), say)
            return _collect(options.work, None, result, options.root)
        case "collect":
            return _collect(options.work, options.seeds, result, options.root)
        case "shipped":
            board = read_result(result)
            with tempfile.TemporaryDirectory() as work:
                rows, digests = _scored(board, Path(work), options.root)
            write_result(result, board.model_copy(update={"shipped": rows, "shipped_sha256": digests}))
        case "add":
            board = add_scores(
                read_result(result), options.name, read_scores(options.scores), options.scores.name
            )
            write_result(result, board)
        case "report":
            for path in write_report(read_result(result), options.root):
                say(f"wrote {path}")
            return 0
        case "check":
            return check(options.root)
    say(f"wrote {result}; `python -m benches.leaderboard report` writes the page")
    return 0


def check(root: Path, scored: Scorer | None = None) -> int:
    """Compare the repository below `root` with its result file; 1 where it is worse, and what is.

    `scored` measures the checkpoints in the repository; `score_shipped` without one.
    """
    started = time.monotonic()
    board = read_result(root / RESULT)
    other_benchmark = wrong_hash(board)
    faults = [*other_benchmark, *stale_pages(board, root)]
    if not board.shipped:
        faults.append(
            "the result file has no rows of shipped checkpoints: `python -m benches.leaderboard shipped`"
        )
    if not other_benchmark:
        with tempfile.TemporaryDirectory() as work:
            rows, digests = (scored or _scored)(board, Path(work), root)
        faults += [*changed_weights(board, digests), *regressions(board.shipped, rows)]
    for fault in faults:
        print(fault)
    digits = board.benchmark.hash[:12]
    good = f"benchmark {digits}: {len(board.shipped)} rows are as good as the result file says"
    say(f"{f'{len(faults)} faults' if faults else good} ({time.monotonic() - started:.0f} s)")
    return 1 if faults else 0


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)


def _scored(board: Leaderboard, work: Path, root: Path) -> Scored:
    plan = Plan.model_validate(board.plan)
    return score_shipped(work, root, plan, board.recommended_scale, board.attribute_units, say)


def _collect(work: Path, seeds: list[int] | None, result: Path, root: Path) -> int:
    records = finished_seeds(work)
    if seeds is not None:
        missing = [seed for seed in seeds if seed not in records]
        if missing:
            say(f"seeds {missing} are not finished in {work}")
            return 1
        records = {seed: records[seed] for seed in seeds}
    previous = read_result(result) if result.is_file() else None
    board = collect(work, records, previous)
    write_result(result, board)
    draw_grid(work, board.seeds[0], board.recommended_scale, root / RESULT.parent / GRID)
    say(
        f"wrote {result} of seeds {', '.join(map(str, board.seeds))}; now `report`, and `shipped` for "
        "the check"
    )
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    start = FAST if options.fast else Plan()
    given = {name: getattr(options, name) for name in Plan.model_fields if getattr(options, name) is not None}
    return Plan.model_validate(start.model_dump() | given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.leaderboard", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="The repository; the folder one is in.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="Train, sweep and measure; what is there is not made again.")
    run.add_argument("--seeds", type=int, nargs="+", default=[0], help="Training seeds.")
    run.add_argument("--work", type=Path, required=True, help="Folder of lakes and values.")
    run.add_argument("--fast", action="store_true", help="Everything once, tiny; the figures mean nothing.")
    for name, field in Plan.model_fields.items():
        kind = float if name in LISTS else int
        run.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            nargs="+" if name in LISTS else None,
            help=f"{field.description} Default: {field.default}.",
        )
    pool = commands.add_parser("collect", help="Pool finished seeds into the result file.")
    pool.add_argument("--work", type=Path, required=True, help="Folder of `run`.")
    pool.add_argument("--seeds", type=int, nargs="+", help="Only these; all finished ones otherwise.")
    commands.add_parser("shipped", help="Score the checkpoints in the repository into the result file.")
    commands.add_parser("report", help="Write page and figures.")
    commands.add_parser("check", help="Fail where the repository is worse than its result file.")
    add = commands.add_parser("add", help="Add rows of `orchard bench score --json`.")
    add.add_argument("name", help="What the program is called.")
    add.add_argument("scores", type=Path, help="The file.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
