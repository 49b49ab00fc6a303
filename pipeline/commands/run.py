"""`orchard run`: compute what is stale."""

from __future__ import annotations

from typing import Annotated

import typer

from assets.planner import Retry
from pipeline.dagster_sync import sync_instance
from pipeline.execution import run_stages
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
    ShardOption,
    StagesArgument,
    UsageError,
    chosen_stages,
    open_graph,
    open_lake,
    print_json,
)
from pipeline.progress import make_progress
from resources.lake.schema import Status
from resources.photos.reasons import Reason


def run_command(
    stages: StagesArgument = None,
    shard: ShardOption = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    force: Annotated[
        bool, typer.Option("--force", help="Compute the named stages even where nothing is stale.")
    ] = False,
    retry: Annotated[
        str | None,
        typer.Option(
            "--retry", metavar="quarantined[:REASON]", help="Compute quarantined rows of these stages again."
        ),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Compute every stale row and artifact, upstream first; with nothing stale it computes nothing.

    A kill at any moment leaves a sound lake; run the same command again and it goes on. Broken rows are
    quarantined with a reason (see `orchard status`); broken code stops the run at once.

    Examples:
        orchard run
        orchard run landmarks iris --shard shard-00003
        orchard run landmarks --retry quarantined:no_face
    """
    chosen = parse_retry(retry) if retry is not None else None
    if force and chosen:
        raise UsageError("--force computes every row anyway; give it or --retry, not both")
    opened = open_lake(lake)
    graph = open_graph(opened, profile, stages)
    report = run_stages(
        opened,
        graph,
        chosen_stages(graph, stages),
        shards=shard,
        force=force,
        retry=chosen,
        device=device,
        progress=make_progress(),
    )
    sync_instance(opened, graph)
    if json:
        print_json(report.as_json())
        return
    done = ", ".join(f"{name} {count}" for name, count in report.computed_rows.items() if count)
    typer.echo(f"computed {done or 'nothing'} in {report.seconds:.1f} s")
    for name, count in report.waiting_rows.items():
        typer.echo(f"{name}: {count} rows wait for an upstream stage that was not run")
    for text in report.waiting.values():
        typer.echo(text)


def parse_retry(text: str) -> Retry:
    """`quarantined` or `quarantined:REASON`; anything else is refused with the reasons there are."""
    status, _, reason = text.partition(":")
    reasons = [item.value for item in Reason if item != Reason.UPSTREAM]
    if status != Status.QUARANTINED.value or (":" in text and reason not in reasons):
        raise UsageError(f"--retry takes quarantined or quarantined:REASON, one of {', '.join(reasons)}")
    return Retry(reason or None)
