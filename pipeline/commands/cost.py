"""`orchard cost`: tokens, operations, memory and hours of a profile, without weights and without a GPU."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.options import DEFAULT_PROFILE, JsonOption, ProfileOption, UsageError, print_json
from pipeline.profiles import PROFILES


def cost_command(
    profile: ProfileOption = DEFAULT_PROFILE,
    images: Annotated[int, typer.Option(min=1, help="Photographs to annotate and encode.")] = 100_000,
    triplets: Annotated[
        int | None, typer.Option(min=1, help="Pseudo triplets to make; the profile's number unless given.")
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="h100, a100, a6000, l40s, rtx4090, ...; 'cpu' measures this machine.")
    ] = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="Cards that share the work.")] = 1,
    sustained: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Share of the card's dense bf16 peak that is reached; 0.35 unless given."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what a profile costs: operations, memory and hours of every stage, with what is assumed.

    Counted on the real networks without their weights (meta device); nothing is downloaded or trained.
    Nobody measured the cards: hours are operations over a share of the maker's peak. What is not known is
    said to be unknown.
    """
    from models.swap.cost_stages import GPUS, SUSTAINED
    from pipeline.cost_estimate import CPU, estimate

    if profile not in PROFILES:
        raise UsageError(f"no profile {profile!r}; there are: {', '.join(PROFILES)}")
    if gpu not in (*GPUS, CPU):
        raise UsageError(f"no card {gpu!r}; there are: {', '.join((*GPUS, CPU))}")
    if gpu == CPU and sustained is not None:
        raise UsageError("--sustained is a share of a card's peak; a CPU's rate is measured")
    found = estimate(
        PROFILES[profile].graph(),
        profile,
        images=images,
        triplets=triplets,
        gpu=gpu,
        gpus=gpus,
        sustained=sustained or SUSTAINED,
    )
    print_json(found) if json else show(found)


def show(found: dict[str, Any]) -> None:
    """Print an estimate as tables."""
    console = Console()
    tokens, gpu = found["tokens"], found["gpu"]
    console.print(
        f"{found['profile']}: {found['image_size']} px, {tokens['all']} tokens "
        f"(text {tokens['text']}, image {tokens['image']}, condition {tokens['condition']})"
    )
    table = Table("parameters", "millions")
    for name, number in found["parameters"].items():
        table.add_row(name, f"{number / 1e6:,.2f}")
    console.print(table)
    table = Table("TFLOP of one picture", "counted", "by hand")
    for name, value in found["tflop"].items():
        hand = found["by_hand"].get(name)
        words = name.replace("_", " ")
        table.add_row(words, f"{value:,.6g}", f"{hand['by_hand']:,.6g}" if hand else "")
    console.print(table)
    console.print(f"Counted over by hand: {found['by_hand']['ratio']}; {found['by_hand']['why']}.")
    for kind in ("training", "swapping"):
        parts = ", ".join(f"{name} {size:.4g}" for name, size in found["memory_gb"][kind].items())
        console.print(f"GB while {kind}, at most: {parts}")
    console.print(f"GB of a cached condition: {found['memory_gb']['condition_cache_gb']}")
    if gpu["training_fits"] is not None:
        verdict = "fits" if gpu["training_fits"] else "does not fit"
        console.print(f"Training {verdict} in the {gpu['memory_gb']} GB of one {gpu['name']}.")
    speed = f"{gpu['count']} x {gpu['name']} at {gpu['assumed_tflops']:,} TFLOP/s ({gpu['source']})"
    table = Table("stage", "units", "TFLOP each", "PFLOP", "hours", "CPU hours", title=speed)
    for name, stage in found["stages"].items():
        cpu = stage["cpu_hours_on_2_cores"]
        table.add_row(
            name,
            f"{stage['units']:,}",
            f"{stage['tflop_each']:,.4g}",
            f"{stage['pflop']:,.0f}" if stage["pflop"] >= 100 else f"{stage['pflop']:.3g}",
            f"{stage['hours']:,.3g}",
            "" if cpu is None else f"{cpu:,.3g}",
        )
    console.print(table)
    for name, stage in found["stages"].items():
        console.print(f"- {name}, per {stage['unit']}: {stage['note']}", markup=False)
    console.print(f"Together {found['total_hours']:,} hours, without what only the CPU does.")
    for title in ("assumptions", "unknown"):
        console.print(f"[bold]{title.capitalize()}[/bold]")
        for line in found[title]:
            console.print(f"- {line}", markup=False)
