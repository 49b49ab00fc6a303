"""`orchard dagster`: make Dagster's home ready without starting anything, and prune its history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.dagster_home import dagster_home, open_instance, storage_place
from pipeline.dagster_sync import make_ready
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    open_graph,
    open_lake,
    print_json,
)
from resources.lake.errors import LakeError

if TYPE_CHECKING:
    from pipeline.retention import Pruned

dagster_app = typer.Typer(
    help="Dagster's home and history: make ready, prune.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dagster_app.command("prepare")
def prepare_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    gpu_slots: Annotated[int, typer.Option(min=1, help="Steps of the gpu pool that run at once.")] = 1,
    json: JsonOption = False,
) -> None:
    """Make DAGSTER_HOME ready for a webserver and a daemon that are started by something else.

    As `orchard ui` does before it starts both: settings, partitions, versions, the limit of the gpu pool.
    """
    opened = open_lake(lake)
    make_ready(opened, open_graph(opened, profile), gpu_slots)
    home = dagster_home()
    if json:
        print_json({"home": str(home), "storage": storage_place(home), "lake": opened.uri})
        return
    typer.echo(f"ready: {home}, for the lake {opened.uri}, profile {profile}")
    typer.echo(f"Dagster's runs and events: {storage_place(home)}")


@dagster_app.command("prune")
def prune_command(
    lake: LakeOption = DEFAULT_LAKE,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0.0, help="Days: younger runs and events stay.")
    ] = 30.0,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="Give the disk space back too; Dagster waits while files are rewritten."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Delete old runs and events of Dagster's history; what decides anything is in the lake.

    The newest result of every partition stays, with the run that made it, and every check's newest outcome.
    """
    from pipeline.retention import prune  # what reads Dagster's tables takes a while to import

    opened = open_lake(lake)
    with open_instance(opened) as instance:
        if instance is None:
            raise LakeError(f"{storage_place(dagster_home())} belongs to another lake; nothing was deleted")
        done = prune(instance, datetime.now(UTC) - timedelta(days=keep_days), give_back=compact)
    if json:
        print_json(done.as_json())
        return
    _print(done)


def _print(done: Pruned) -> None:
    typer.echo(
        f"deleted {done.runs} runs, {done.runless_events} events without a run, {done.check_results} "
        f"outcomes of checks; {done.kept_runs} old runs stay for what they made"
    )
    table = Table("", "runs", "events", "MB of history", "MB of captured output")
    for name, size in (("before", done.before), ("after", done.after)):
        megabytes = (f"{value / 1e6:.1f}" for value in (size.history_bytes, size.output_bytes))
        table.add_row(name, str(size.runs), str(size.events), *megabytes)
    Console().print(table)
