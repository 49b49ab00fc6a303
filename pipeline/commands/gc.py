"""`orchard gc`: remove what nobody can reach any more."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.options import DEFAULT_LAKE, JsonOption, LakeOption, open_lake, print_json
from resources.lake.housekeeping import (
    DEFAULT_KEEP_SECONDS,
    SAFETY_SECONDS,
    collect_garbage,
    plan_garbage,
)

HOUR = 3600.0


def gc_command(
    lake: LakeOption = DEFAULT_LAKE,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0.0, help="Hours: younger versions and leftovers stay.")
    ] = DEFAULT_KEEP_SECONDS / HOUR,
    safety_age: Annotated[
        float,
        typer.Option(
            "--safety-age", min=0.0, help="Hours: younger files that no version refers to stay, in any case."
        ),
    ] = SAFETY_SECONDS / HOUR,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove old versions of the tables, files that no version refers to, and leftovers of broken-off runs.

    The newest version and tagged ones (releases) stay whole, and so does every checkpoint and list that an
    artifact names. Trainings that were broken off can no longer be resumed once they are removed.
    """
    opened = open_lake(lake)
    do = plan_garbage if dry_run else collect_garbage
    plan = do(opened, keep_seconds=older_than * HOUR, safety_seconds=safety_age * HOUR)
    if json:
        print_json({"dry_run": dry_run, **plan.as_json()})
        return
    done = "would free" if dry_run else "freed"
    table = Table("what", "where", "files", "bytes", title=f"{done} {plan.bytes / 1e6:.1f} MB")
    for item in plan.waste:
        table.add_row(item.kind, item.name, str(item.files), str(item.bytes))
    Console().print(table)
