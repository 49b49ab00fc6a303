"""`orchard export`: photographs and annotations as a folder tree that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assets.apple_export import export_apple
from assets.apple_layout import LAYOUT_STAGES
from models.faces.condition import ConditionRecipe
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    UsageError,
    open_graph,
    open_lake,
    print_json,
)

EXPORT_LAYOUTS = ("apple",)


def export_command(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; made when absent.")],
    layout: Annotated[
        str, typer.Option(help="How files lie: apple, the tree that APPLE's scripts read.")
    ] = "apple",
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help=f"Only files of this stage, repeatable: {', '.join(LAYOUT_STAGES)}."),
    ] = None,
    condition: Annotated[
        str, typer.Option(help="Which condition image, by the name of APPLE's folder for it.")
    ] = ConditionRecipe().folder,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """Write the lake's photographs and fresh annotations as files.

    The same lake gives the same bytes. `orchard ingest DIR --layout apple` reads such a tree back.

    Examples:
        orchard export ~/tree
        orchard export ~/tree --stage landmarks --stage iris
    """
    if layout not in EXPORT_LAYOUTS:
        raise UsageError(f"no layout {layout!r} to export; there are: {', '.join(EXPORT_LAYOUTS)}")
    unknown = [name for name in stage or [] if name not in LAYOUT_STAGES]
    if unknown:
        raise UsageError(f"no files of {', '.join(unknown)}; there are: {', '.join(LAYOUT_STAGES)}")
    try:
        recipe = ConditionRecipe.from_folder(condition)
    except ValueError as error:
        raise UsageError(str(error)) from error
    opened = open_lake(lake)
    report = export_apple(opened, open_graph(opened, profile), path, stage or LAYOUT_STAGES, recipe)
    if json:
        print_json(report.as_json())
        return
    for name, count in report.as_json()["photographs"].items():
        typer.echo(f"{name}: {count} photographs")
    typer.echo(f"{report.written} files written, {report.unchanged} were there already")
