"""`orchard bench`: scores of any program's swaps of the benchmark."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.options import UsageError, say
from resources.weights.resolve import resolve

TABLE_WIDTH = 120
"""Characters that the table needs; a narrower terminal wraps whole lines instead of cells."""

bench_app = typer.Typer(
    name="bench",
    help="The benchmark of `orchard world sample`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@bench_app.command("score")
def score_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `orchard world sample`.")],
    results: Annotated[
        Path, typer.Option(help="Folder of the results, in DIR unless absolute; named like the targets.")
    ] = Path("results"),
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Side at which pictures are compared, px; everything is resized to it.",
            show_default="the size of the targets",
        ),
    ] = None,
    pose: Annotated[
        bool, typer.Option(help="Measure head pose and expression; needs MediaPipe (the extra `faces`).")
    ] = True,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write all numbers, per pair too, to this file.")
    ] = None,
) -> None:
    """Score results of any program against the exact answers, which are rendered again.

    Beside the results stand *copy_target* (do nothing) and *truth_at_result_size* (the exact answer through
    the size of the results: what they could reach). Intervals are 95 % bootstrap intervals over the pairs.
    Every pair needs a result: if some are missing or broken, they are listed and nothing is scored.
    """
    from models.worlds.benchmark_folder import read_benchmark
    from pipeline.benchmark_results import ResultsError, read_results
    from pipeline.benchmark_scores import score_results

    try:
        manifest = read_benchmark(folder)
        side = manifest.size if size is None else size
        found = read_results(folder / results, manifest.names, side)
        landmarker = resolve("face_landmarker").path if pose else None
        told = score_results(manifest, found, side, face_landmarker=landmarker, report=say)
    except ResultsError as error:
        typer.echo(f"orchard: {error}", err=True)
        raise typer.Exit(1) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if found.unused:
        say(f"{len(found.unused)} pictures belong to no pair and were left out, first {found.unused[0]}")
    _show(told)
    if json is not None:
        json.write_text(dumps(told, indent=1, allow_nan=False) + "\n")
        say(f"all numbers are in {json}")


def _show(told: dict[str, Any]) -> None:
    from pipeline.benchmark_scores import UNITS

    benchmark = told["benchmark"]
    digits = benchmark["hash"][:12]
    table = Table(
        "metric",
        *told["scores"],
        "pairs",
        "counted in",
        title=f"benchmark {digits}, {benchmark['pairs']} pairs, compared at {told['compared_at']} px "
        f"(results: {told['result_sizes']})",
    )
    for name in next(iter(told["scores"].values())):
        cells = [metrics[name] for metrics in told["scores"].values()]
        table.add_row(name, *map(_cell, cells), str(cells[0]["rows"]), UNITS[name])
    Console(width=max(Console().width, TABLE_WIDTH)).print(table)


def _cell(interval: dict[str, Any]) -> str:
    if not interval["rows"]:
        return "not measured"
    return f"{_number(interval['mean'])} [{_number(interval['low'])}, {_number(interval['high'])}]"


def _number(value: float) -> str:
    """Three digits, of which at most three after the point."""
    return f"{round(value, 3):.3g}"
