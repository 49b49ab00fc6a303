"""`orchard forget`: photographs, everything made from them, and every byte of both."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.dagster_home import open_instance
from pipeline.dagster_storage import compact, delete_runless_events
from pipeline.dagster_sync import sync_instance
from pipeline.options import DEFAULT_LAKE, JsonOption, LakeOption, UsageError, open_lake, print_json
from resources.lake.forget import ForgetReport, find_photographs, forget
from resources.lake.lake import Lake


def forget_command(
    identity: Annotated[
        list[str] | None, typer.Option("--identity", help="A person: all photographs of them.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="One photograph by its image id, `person/photo`.")
    ] = None,
    lake: LakeOption = DEFAULT_LAKE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Forget people or photographs: rows, everything computed or made from them, old versions, reports.

    No byte of the pictures, their latents or embeddings stays in the lake folder. The source files are yours
    to delete. Checkpoints that were trained with them are listed as tainted, here and in `orchard status`;
    the next `orchard run` trains again without them. Dagster's history, which holds previews, is emptied.

    Examples:
        orchard forget --identity n000042
        orchard forget --image n000042/0007_01 --yes
    """
    if not identity and not image:
        raise UsageError("name whom to forget: --identity PERSON or --image PERSON/PHOTO")
    opened = open_lake(lake)
    found = find_photographs(opened, identities=identity or (), image_ids=image or ())
    if not yes:
        if json:
            raise UsageError("with --json nothing can be asked: add --yes")
        rows = ", ".join(f"{count} of {name}" for name, count in found.rows.items())
        typer.echo(f"{len(found.image_ids)} photographs; rows to remove: {rows}")
        typer.confirm("Forget them? This cannot be undone", abort=True)
    report = forget(opened, identities=identity or (), image_ids=image or ())
    history = empty_history(opened)
    if json:
        print_json({**report.as_json(), "dagster_history_emptied": history})
        return
    _print(report, history)


def empty_history(lake: Lake) -> bool:
    """Empty the event log of the lake's Dagster instance, whose previews show photographs, and fill it anew.

    Returns False when the instance belongs to another lake.
    """
    with open_instance(lake) as instance:
        if instance is None:
            return False
        instance.wipe()
        delete_runless_events(instance)
        compact(instance)  # without it the pages of deleted events stay on the disk
    return sync_instance(lake)


def _print(report: ForgetReport, history: bool) -> None:
    rows = ", ".join(f"{done.rows} of {name}" for name, done in report.tables.items())
    typer.echo(f"forgot {report.photographs} photographs; rows removed: {rows}")
    for name, done in report.tables.items():
        for tag in done.dropped_tags:
            typer.echo(f"  dropped the tag {tag} of {name}: its version held them")
    for name in report.lists:
        typer.echo(f"  took them out of {name}")
    for name in report.removed_files:
        typer.echo(f"  removed {name}")
    if report.tainted:
        typer.echo("tainted, trained or measured with photographs that are forgotten now:")
    for item in report.tainted:
        typer.echo(f"  {item.stage} {item.location or item.digest} ({item.photographs} photographs)")
    if not history:
        typer.echo("the Dagster home belongs to another lake; if this one had its own, delete that folder")
    typer.echo("the source files are still yours to delete; `orchard run` trains again without them")
