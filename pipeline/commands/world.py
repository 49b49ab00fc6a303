"""`orchard world`: rendered people with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import JsonOption, UsageError, print_json

world_app = typer.Typer(
    name="world",
    help="Rendered people who do not exist, with exact answers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@world_app.command("sample")
def sample_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write, made if missing.")],
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Number of pairs.", show_default="the benchmark's 200")
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Width and height of the pictures, px.")] = 256,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Another seed is another benchmark, with another hash.",
            show_default="the benchmark's own",
        ),
    ] = None,
    with_truth: Annotated[
        bool,
        typer.Option(
            "--with-truth", help="Also the exact answers, with masks, parsing, landmarks and depth."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write the benchmark: pairs of pictures for any program to swap, to be scored by `orchard bench score`.

    People and photographs are rendered and nobody in them is used for training. Files that are there already
    stay as they are.
    """
    # The renderer takes half a second to import, which other commands need not wait for.
    from models.worlds.benchmark import BENCHMARK_PAIRS, BENCHMARK_SEED
    from models.worlds.benchmark_folder import write_benchmark

    try:
        manifest = write_benchmark(
            folder,
            pairs=BENCHMARK_PAIRS if pairs is None else pairs,
            size=size,
            seed=BENCHMARK_SEED if seed is None else seed,
            with_truth=with_truth,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    typer.echo(f"{folder}: {manifest.pairs} pairs of {size} px, hash {manifest.digits}")
    typer.echo(f"{folder / 'README.md'} says what to do with them")
