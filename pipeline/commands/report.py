"""`orchard report`: one HTML page about a lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    RecipeOption,
    find_profile,
    find_view,
    open_graph,
    open_lake,
    print_json,
    require_started,
)
from pipeline.report import ReportData, collect, write_report
from resources.lake.lake import Lake

REPORT_NAME = "report.html"


def report_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    recipe: RecipeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; by default report.html in the lake.", dir_okay=False, show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page: accounts, previews, loss curves, metrics, swaps, provenance.

    It holds small copies of photographs, so show it only to whom you may show those. Parts that are not
    computed yet are named, and an unchanged lake gives the same bytes again.
    """
    view = find_view(profile, recipe)
    opened = open_lake(lake)
    graph = open_graph(opened, profile)
    require_started(graph, view)
    description = find_profile(profile).description
    if view.recipe is not None:
        description += f" Recipe {view.recipe}."
    data = collect(opened, graph, profile=profile, description=description, view=view)
    if out is None:
        name = REPORT_NAME if view.recipe is None else f"report-{view.recipe}.html"
        place, size = write_lake_report(opened, data, name)
    else:
        path = out.expanduser().resolve()
        place, size = str(path), write_report(data, path)
    if json:
        print_json(contents(data, place, size))
        return
    typer.echo(f"{place}: {size / 1e6:.1f} MB")
    if data.missing:
        typer.echo(f"not in the lake yet: {', '.join(data.missing)}")


def write_lake_report(lake: Lake, data: ReportData, name: str = REPORT_NAME) -> tuple[str, int]:
    """Write the page into the lake; returns where it is and its bytes."""
    path = lake.folder() / name
    size = write_report(data, path)
    return f"{lake.uri}/{lake.publish(path)}", size


def contents(data: ReportData, place: str, size: int) -> dict[str, object]:
    """What a report holds, as plain values."""
    return {
        "path": place,
        "bytes": size,
        "photographs": data.photographs,
        "release": data.release.tag if data.release else None,
        "models": {checkpoint.stage: checkpoint.model_id for checkpoint in data.checkpoints},
        "evaluation": data.evaluation.digest if data.evaluation else None,
        "previews": [preview.stage for preview in data.previews],
        "swap_pairs_shown": len(data.swaps),
        "swap_pairs": data.swap_pairs,
        "missing": list(data.missing),
    }


__all__ = ["contents", "report_command", "write_lake_report"]
