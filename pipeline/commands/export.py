"""`orchard export`: photographs and annotations, or triplets, as a folder that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assets.apple_export import export_apple
from assets.apple_layout import LAYOUT_STAGES
from assets.apple_triplets import export_triplets
from assets.recipe_view import RecipeView
from models.faces.condition import ConditionRecipe
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    RecipeOption,
    UsageError,
    find_view,
    open_graph,
    open_lake,
    print_json,
    require_started,
)

PHOTOGRAPHS, TRIPLETS = "apple", "apple-triplets"
EXPORT_LAYOUTS = (PHOTOGRAPHS, TRIPLETS)


def export_command(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; made when absent.")],
    layout: Annotated[
        str,
        typer.Option(
            help="apple: the tree that APPLE's scripts read. apple-triplets: pseudo triplets under the names "
            "that its student loader reads."
        ),
    ] = PHOTOGRAPHS,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help=f"Only files of this stage, repeatable: {', '.join(LAYOUT_STAGES)}."),
    ] = None,
    condition: Annotated[
        str, typer.Option(help="Which condition image, by the name of APPLE's folder for it.")
    ] = ConditionRecipe().folder,
    released: Annotated[
        bool, typer.Option("--released", help="apple-triplets: only those of the current triplets_release.")
    ] = False,
    any_names: Annotated[
        bool, typer.Option("--any-names", help="apple-triplets: also names that APPLE's loader refuses.")
    ] = False,
    recipe: RecipeOption = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """Write the lake's photographs and fresh annotations, or its triplets, as files.

    The same lake gives the same bytes. `orchard ingest DIR --layout apple` reads a tree of photographs back.

    Examples:
        orchard export ~/tree
        orchard export ~/tree --stage landmarks --stage iris
        orchard export ~/triplets --layout apple-triplets --released
    """
    if layout not in EXPORT_LAYOUTS:
        raise UsageError(f"no layout {layout!r} to export; there are: {', '.join(EXPORT_LAYOUTS)}")
    if layout == TRIPLETS:
        view = find_view(profile, recipe)
        _export_triplets(path, stage, released, any_names, view, lake, profile, json)
        return
    if released or any_names or recipe:
        raise UsageError("--released, --any-names and --recipe belong to --layout apple-triplets")
    unknown = [name for name in stage or [] if name not in LAYOUT_STAGES]
    if unknown:
        raise UsageError(f"no files of {', '.join(unknown)}; there are: {', '.join(LAYOUT_STAGES)}")
    try:
        drawn = ConditionRecipe.from_folder(condition)
    except ValueError as error:
        raise UsageError(str(error)) from error
    opened = open_lake(lake)
    report = export_apple(opened, open_graph(opened, profile), path, stage or LAYOUT_STAGES, drawn)
    if json:
        print_json(report.as_json())
        return
    for name, count in report.as_json()["photographs"].items():
        typer.echo(f"{name}: {count} photographs")
    typer.echo(f"{report.written} files written, {report.unchanged} were there already")


def _export_triplets(
    path: Path,
    stage: list[str] | None,
    released: bool,
    any_names: bool,
    view: RecipeView,
    lake: str,
    profile: str,
    json: bool,
) -> None:
    if stage:
        raise UsageError("--stage belongs to --layout apple; triplets have no files of single stages")
    opened = open_lake(lake)
    graph = open_graph(opened, profile)
    require_started(graph, view)
    report = export_triplets(opened, graph, path, released=released, any_names=any_names, view=view)
    if json:
        print_json(report.as_json())
        return
    typer.echo(f"{report.triplets} triplets, {report.scored} of them in score.json")
    for reason, count in sorted(report.left_out.items()):
        typer.echo(f"left out, {reason}: {count}")
    if report.foreign_names:
        typer.echo(
            f"{report.foreign_names} names are not as in VGGFace2-HQ: APPLE's loader refuses this folder"
        )
    if report.others_there:
        typer.echo(
            f"{report.others_there} pictures in {path} are of no triplet of today; they were left alone"
        )
    typer.echo(f"{report.written} files written, {report.unchanged} were there already")
