"""`orchard check`: the checks of the data that Dagster shows, without Dagster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from assets.checks.catalogue import CheckRun, DataChecks
from assets.checks.findings import Severity
from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
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
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE


def check_command(
    stages: StagesArgument = None,
    shard: ShardOption = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    everything: Annotated[
        bool, typer.Option("--all", help="Show checks that passed as well; JSON always holds all.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check what the lake holds, stage by stage: rows accounted for, ids, schema, values, plausibility.

    Stages and shards of which nothing was computed yet are passed over. Loads no model, reads no photograph.
    The exit code is 1 when a check fails with severity ERROR; warnings are shown and leave it at 0.
    """
    opened = open_lake(lake)
    graph = open_graph(opened, profile)
    runs = list(check_stages(opened, graph, chosen_stages(graph, stages), shard))
    failed = [run for run in runs if not run.finding.passed]
    errors = sum(run.finding.severity is Severity.ERROR for run in failed)
    if json:
        print_json(
            {
                "passed": not errors,
                "errors": errors,
                "warnings": len(failed) - errors,
                "checks": [run.as_json() for run in runs],
            }
        )
    else:
        _print(runs if everything else failed)
        typer.echo(f"{len(runs)} checks: {errors} failed, {len(failed) - errors} warn")
    if errors:
        raise typer.Exit(1)


def check_stages(
    lake: Lake, graph: StageGraph, names: Sequence[str], shards: Sequence[str] | None = None
) -> Iterator[CheckRun]:
    """Every check of every named stage, for every shard (or those named) in which it has computed something.

    Raises UsageError when a named shard is in none of the tables.
    """
    planner, checks = Planner(lake, graph), DataChecks(lake, graph)
    _refuse_unknown(planner, shards)
    for name in names:
        stage = None if name == FACES_STAGE else graph[name]
        if stage is not None and not isinstance(stage, RowStage):
            if not shards and lake.current_artifact(name) is not None:
                yield from checks.run(name, None)
            continue
        table = planner.table(stage.table if stage else FACES_STAGE)
        rows = table.stages[name]
        behind = table.shard_counts(rows.stale)
        for shard in sorted(table.shard_counts(~rows.pending)):
            if not shards or shard in shards:
                yield from checks.run(name, shard, pending=behind.get(shard, 0))


def _refuse_unknown(planner: Planner, shards: Sequence[str] | None) -> None:
    tables = {FACES_STAGE, *(stage.table for stage in planner.graph.row_stages())}
    known = {shard for table in tables for shard in planner.table(table).shard_names}
    unknown = sorted(set(shards or ()) - known)
    if unknown:
        raise UsageError(f"no shard {', '.join(unknown)}; there are: {', '.join(sorted(known))}")


def _print(runs: Sequence[CheckRun]) -> None:
    for run in runs:
        result = "passed" if run.finding.passed else run.finding.severity.value
        where = " ".join(filter(None, (run.stage, run.shard, run.check.name)))
        typer.echo(f"{result:<7}{where}: {run.finding.message}")


__all__ = ["check_command", "check_stages"]
