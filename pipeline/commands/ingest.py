"""`orchard ingest`: photographs into the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assets.apple_import import ImportReport, import_apple
from pipeline.dagster_sync import sync_instance
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    UsageError,
    open_graph,
    print_json,
)
from resources.lake.consent import Consent
from resources.lake.ingest import DEFAULT_SHARD_SIZE, IngestReport, ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.photos.layouts import LAYOUTS, scan
from resources.photos.pairs import SwapPair, ffhq_pairs, read_swap_pairs

LEFT_ASIDE_SHOWN = 10
"""Lines on annotations that were not taken; --json lists all."""


def ingest_command(
    path: Annotated[Path, typer.Argument(help="Folder that holds the photographs.")],
    lake: LakeOption = DEFAULT_LAKE,
    layout: Annotated[
        str,
        typer.Option(
            help="How names become people: auto, flat (every file a person), identity-folders "
            "(<person>/<photo>), vggface2-hq (n000002/0001_01.jpg), ffhq-pairs (src/ and trg/) or apple "
            "(<person>/<photo> with APPLE's annotations beside them, which are read too)."
        ),
    ] = "auto",
    consent: Annotated[
        Consent | None,
        typer.Option(
            help="On what basis these photographs may be used; recorded with every row. Rows without one "
            "that allows it are annotated but never trained on or swapped."
        ),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Photographs per shard; a shard is one Dagster partition.")
    ] = DEFAULT_SHARD_SIZE,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop the rows of files that are gone from PATH.")
    ] = False,
    un_forget: Annotated[
        bool, typer.Option("--un-forget", help="Take back photographs that `orchard forget` removed.")
    ] = False,
    swap_pairs: Annotated[
        Path | None,
        typer.Option(
            help="CSV `source,target,truth` of pairs to swap and evaluate (image ids, picture). A fourth "
            "column `use` may be `training`: its exact answer may then be learnt, and it is not swapped."
        ),
    ] = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """Bring a tree of JPEG, PNG and WebP photographs into the lake.

    Idempotent: an unchanged tree changes nothing, a changed file replaces its row, a removed one is reported.
    Broken files are quarantined with a reason and stop nothing.

    Examples:
        orchard ingest ~/photos --consent subject_consented
        orchard ingest VGGface2_HQ/original --layout vggface2-hq --consent dataset_licence
    """
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"no layout {layout!r}; there are: auto, {', '.join(LAYOUTS)}")
    opened = Lake.open(lake, create=True)
    report = ingest(
        opened,
        path,
        layout=layout,  # pyright: ignore[reportArgumentType] -- checked against LAYOUTS above
        shard_size=shard_size,
        consent=consent,
        prune=prune,
        un_forget=un_forget,
    )
    pairs = _store_pairs(opened, path, report, swap_pairs)
    imported = None
    if report.layout == "apple":
        imported = import_apple(opened, open_graph(opened, profile), path)
    sync_instance(opened)
    if json:
        found = {**report.as_json(), "swap_pairs": pairs}
        print_json(found if imported is None else {**found, "annotations": imported.as_json()})
        return
    _print(report, pairs)
    if imported is not None:
        _print_imported(imported)


def _store_pairs(lake: Lake, root: Path, report: IngestReport, csv_path: Path | None) -> int | None:
    """Keep the list of pairs to swap: the given CSV, or src/trg photographs of equal name."""
    if csv_path is not None:
        rows = swap_pair_rows(read_swap_pairs(csv_path))
    elif report.layout == "ffhq-pairs":
        found = ffhq_pairs(scan(root, "ffhq-pairs", lambda skipped: None))
        rows = swap_pair_rows(SwapPair(pair.source_id, pair.target_id, None) for pair in found)
    else:
        return None
    store_swap_pairs(lake, rows)
    return len(rows)


def _print_imported(report: ImportReport) -> None:
    for counts, what in (
        (report.exact, "imported, exact values"),
        (report.pictures, "imported, as far as pictures tell"),
        (report.kept, "read and not needed: the lake has a fresh result, or the same import"),
    ):
        for stage, count in counts.items():
            typer.echo(f"  {stage}: {count} {what}")
    for text in report.left_aside[:LEFT_ASIDE_SHOWN]:
        typer.echo(f"  left aside, {text}")
    if len(report.left_aside) > LEFT_ASIDE_SHOWN:
        typer.echo(f"  left aside, {len(report.left_aside) - LEFT_ASIDE_SHOWN} more; --json lists them")


def _print(report: IngestReport, pairs: int | None) -> None:
    typer.echo(f"layout {report.layout}: {report.layout_reason}")
    typer.echo(
        f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged, "
        f"{sum(report.quarantined.values())} quarantined"
    )
    for reason, count in sorted(report.quarantined.items()):
        typer.echo(f"  quarantined {reason}: {count}")
    for text in report.conflicts:
        typer.echo(f"  not ingested, {text}")
    for text in report.skipped:
        typer.echo(f"  skipped {text}")
    if report.removed:
        done = "dropped" if report.pruned else "kept; drop them with --prune"
        typer.echo(
            f"{len(report.removed)} files are gone, their rows {done}: {', '.join(report.removed[:5])}"
        )
    if pairs is not None:
        typer.echo(f"{pairs} swap pairs stored")
