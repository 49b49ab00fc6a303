"""`orchard plan` and `orchard status`: what is stale, and what is there."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from assets.planner import Planner, StagePlan
from assets.stage import RowStage, StageGraph
from pipeline.commands.explain import explain, print_explanation
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    StagesArgument,
    chosen_stages,
    open_graph,
    open_lake,
    print_json,
)
from resources.lake.lake import Lake
from resources.lake.removals import read_tainted
from resources.lake.schema import FACES_STAGE
from resources.lake.state import ingest_account


def plan_command(
    stages: StagesArgument = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    explain_name: Annotated[
        str | None,
        typer.Option("--explain", metavar="ROW|SHARD|STAGE", help="Say why this one is stale, and no more."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what `orchard run` would compute, and why. Loads no model, reads no picture, computes nothing.

    `stale` rows have no result, or one made from other inputs, code, settings or weights than today's.
    `waiting` rows may follow once what they depend on is computed; they stop where outputs stay the same.
    With --explain, one row, shard or stage is followed to the input that changed first.
    """
    opened = open_lake(lake)
    graph = open_graph(opened, profile, stages)
    if explain_name is not None:
        found = explain(opened, graph, explain_name)
        if json:
            print_json(found.as_json())
        else:
            print_explanation(found)
        return
    plans = plan_stages(opened, graph, chosen_stages(graph, stages))
    total = sum(plan.stale_rows for plan in plans.values())
    if json:
        print_json(
            {"total_stale_rows": total, "stages": {name: plan.as_json() for name, plan in plans.items()}}
        )
        return
    table = Table("stage", "stale", "waiting", "shards", "why", title=f"{total} stale rows")
    for name, plan in plans.items():
        why = ", ".join(f"{reason} ({count})" for reason, count in sorted(plan.why.items()))
        table.add_row(name, str(plan.stale_rows), str(plan.waiting_rows), _shards(plan.shards), why)
    Console().print(table)


def plan_stages(lake: Lake, graph: StageGraph, names: list[str]) -> dict[str, StagePlan]:
    """Plans by stage name; the ingest is never stale, `orchard ingest` looks at the files themselves."""
    planner = Planner(lake, graph)
    return {name: StagePlan() if name == FACES_STAGE else planner.plan(graph[name]) for name in names}


def status_command(
    stages: StagesArgument = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """Show how many rows of every stage are ok, quarantined (with reasons) and pending.

    The three always add up to the rows of the stage's table. Pending rows have no result of today's inputs,
    or wait for a stage above that has none. Stages given by name are shown with all that they depend on.
    """
    opened = open_lake(lake)
    graph = open_graph(opened, profile, stages)
    found = stage_status(opened, graph)
    if json:
        print_json(found)
        return
    table = Table("stage", "ok", "quarantined", "pending", "reasons", title=f"{found['rows']} photographs")
    for name, line in found["stages"].items():
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(line["reasons"].items()))
        table.add_row(name, str(line["ok"]), str(line["quarantined"]), str(line["pending"]), reasons)
    Console().print(table)
    for item in found["tainted"]:
        place = item["location"] or item["digest"]
        typer.echo(f"tainted: {item['stage']} {place} saw {item['photographs']} photographs forgotten since")


def stage_status(lake: Lake, graph: StageGraph) -> dict[str, Any]:
    """`{"rows": int, "stages": {stage: {"ok", "quarantined", "pending", "reasons"}}, "tainted": [...]}`.

    `tainted` names the checkpoints and evaluations that were made with photographs forgotten since.
    """
    planner = Planner(lake, graph)
    faces = ingest_account(lake)
    stages: dict[str, Any] = {FACES_STAGE: _line(faces.ok, faces.quarantined, 0, faces.reasons)}
    for stage in graph.stages:
        if not isinstance(stage, RowStage):
            plan = planner.artifact(stage.name)
            ready = plan.current is not None and not plan.stale and not plan.waiting
            stages[stage.name] = _line(int(ready), 0, int(not ready), Counter())
            continue
        rows = planner.stage_rows(stage)
        pending = rows.stale | rows.waiting
        quarantined = rows.quarantined & ~pending
        reasons = Counter(
            reason for reason, here in zip(rows.reason.to_pylist(), quarantined, strict=True) if here
        )
        stages[stage.name] = _line(
            int((rows.ok & ~pending).sum()), int(quarantined.sum()), int(pending.sum()), reasons
        )
    return {"rows": faces.rows, "stages": stages, "tainted": [vars(item) for item in read_tainted(lake)]}


def _line(ok: int, quarantined: int, pending: int, reasons: Counter[str]) -> dict[str, Any]:
    return {
        "ok": ok,
        "quarantined": quarantined,
        "pending": pending,
        "reasons": dict(sorted(reasons.items())),
    }


def _shards(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)})"


__all__ = ["plan_command", "plan_stages", "stage_status", "status_command"]
