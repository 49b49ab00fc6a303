"""`orchard repair`: find damaged files and have their content made again."""

from __future__ import annotations

from typing import Annotated

import typer

from assets.stage import StageGraph
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    find_profile,
    print_json,
)
from resources.lake.lake import Lake
from resources.lake.repair import RepairReport, repair


def repair_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is damaged; exit code 1 if any.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read the whole lake and mend what is damaged: files that are gone, cut short or overwritten.

    Damaged results become pending, damaged photographs are read again from their source files, damaged
    checkpoints are trained again; `orchard run` does the computing. What cannot be mended is said.
    """
    found = find_profile(profile)
    every_recipe = [recipe.name for recipe in found.parts().recipes]
    opened = Lake.locate(lake)
    say = (lambda text: None) if json else typer.echo
    report = repair(opened, column_groups(found.graph(every_recipe)), check_only=check, say=say)
    if json:
        print_json(report.as_json())
    else:
        _print(report)
    if check and not report.sound:
        raise typer.Exit(1)


def column_groups(graph: StageGraph) -> dict[str, list[list[str]]]:
    """Names of the column groups of every stage, by table."""
    groups: dict[str, list[list[str]]] = {}
    for stage in graph.row_stages():
        groups.setdefault(stage.table, []).append([field.name for field in stage.group_fields])
    return groups


def _print(report: RepairReport) -> None:
    if report.sound:
        typer.echo("every file of the lake reads well")
    for text in report.versions:
        typer.echo(f"{text}; it was put aside, what it had committed is pending again")
    for item in report.files:
        typer.echo(f"{item.location} is damaged: {item.detail}")
    for text in report.done:
        typer.echo(f"done: {text}")
    for text in report.todo:
        typer.echo(f"for you to do: {text}")
