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
    UsageError,
    open_graph,
    open_lake,
    print_json,
)
from pipeline.profiles import profile as find_profile
from pipeline.report import ReportData, collect, write_report

REPORT_NAME = "report.html"


def report_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; by default report.html inside the lake.", dir_okay=False, show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page: accounts, previews, loss curves, metrics, swaps, provenance.

    It holds small copies of photographs, so show it only to whom you may show those. Parts that are not
    computed yet are named, and an unchanged lake gives the same bytes again.
    """
    opened = open_lake(lake)
    if out is None and not opened.is_local:
        raise UsageError(f"{opened.uri} is not a local folder; name a file with --out")
    graph = open_graph(opened, profile)
    path = (out or Path(opened.uri) / REPORT_NAME).expanduser().resolve()
    data = collect(opened, graph, profile=profile, description=find_profile(profile).description)
    size = write_report(data, path)
    if json:
        print_json(contents(data, path, size))
        return
    typer.echo(f"{path}: {size / 1e6:.1f} MB")
    if data.missing:
        typer.echo(f"not in the lake yet: {', '.join(data.missing)}")


def contents(data: ReportData, path: Path, size: int) -> dict[str, object]:
    """What a report holds, as plain values."""
    return {
        "path": str(path),
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


__all__ = ["contents", "report_command"]
