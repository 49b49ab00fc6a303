"""What a refresh should launch: one run for every stale shard, and one for every artifact that is due.

The planner says what is stale, Dagster's runs say what is under way and what lately failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import dagster as dg

from assets.planner import Planner, explain_rows
from assets.stage import ArtifactStage, Input, RowStage
from pipeline.automation.discovery import DISCOVER_JOB, REFRESH_JOB
from pipeline.automation.settings import is_row_stage_of
from resources.lake.schema import FACES_STAGE

TARGET_TAG = "orchard/target"
STAGES_TAG = "orchard/stages"
WHY_TAG = "orchard/why"
REFRESH_TAG = "orchard/refresh"
LAUNCHER_TAG = "orchard/launched_by"

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
BROKEN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

RUNS_LOOKED_AT = 500
"""How many of the newest runs are read to count failures in a row."""

LONGEST_PAUSE_SECONDS = 3600.0
"""What fails again and again is still tried at least this often."""


@dataclass(frozen=True)
class Launch:
    """One run to launch: assets of one shard, or one artifact (`partition` is its recipe then, or None).

    `why` says in words why each stage is stale.
    """

    target: str
    assets: tuple[str, ...]
    partition: str | None
    why: str

    def tags(self, refresh: str, launcher: str) -> dict[str, str]:
        """Tags of its run: what it is for, why, and which refresh found it."""
        return {
            TARGET_TAG: self.target,
            STAGES_TAG: ",".join(self.assets),
            WHY_TAG: self.why,
            REFRESH_TAG: refresh,
            LAUNCHER_TAG: launcher,
        }


def stale_launches(planner: Planner, stages: Collection[str]) -> list[Launch]:
    """Everything that can be computed now, among `stages`: photographs, pair tables, artifacts.

    A stage that waits for another one of its own shard is launched with it, in the same run; one that waits
    for a stage which may not be launched, or for an artifact, is left out until that is fresh.
    """
    graph = planner.graph
    launches = [launch for table in graph.tables() for launch in _shards(planner, table, stages)]
    for stage in graph.stages:
        if isinstance(stage, ArtifactStage) and stage.name in stages:
            found = planner.artifact(stage.name)
            if found.ready:
                why = f"{stage.name}: {'+'.join(found.why)}"
                launches.append(Launch(stage.name, (stage.asset,), graph.partition_of(stage), why))
    return launches


def _shards(planner: Planner, table: str, stages: Collection[str]) -> list[Launch]:
    graph, plan = planner.graph, planner.table(table)
    unfinished: dict[str, Collection[str]] = {}
    chosen: dict[str, list[RowStage]] = {}
    for stage in graph.row_stages(table):
        rows = plan.stages[stage.name]
        unfinished[stage.name] = plan.shard_counts(rows.stale | rows.waiting)
        elsewhere = [item for item in stage.inputs if not is_row_stage_of(graph, item.stage, table)]
        if stage.name not in stages or not all(_is_fresh(planner, item) for item in elsewhere):
            continue
        beside = [item.stage for item in stage.inputs if item not in elsewhere]
        for shard in unfinished[stage.name]:
            launched = {earlier.name for earlier in chosen.get(shard, ())}
            if all(shard not in unfinished.get(name, ()) or name in launched for name in beside):
                chosen.setdefault(shard, []).append(stage)
    return [
        Launch(shard, tuple(stage.asset for stage in found), shard, _why(planner, table, shard, found))
        for shard, found in sorted(chosen.items())
    ]


def _is_fresh(planner: Planner, item: Input) -> bool:
    """Whether an input from outside a table has nothing stale in it at all."""
    if item.stage == FACES_STAGE:
        return True
    stage = planner.graph[item.stage]
    if isinstance(stage, RowStage):
        rows = planner.table(stage.table).stages[stage.name]
        return not (rows.stale | rows.waiting).any()
    found = planner.artifact(item.stage)
    return not found.stale and not found.waiting


def _why(planner: Planner, table: str, shard: str, stages: Iterable[RowStage]) -> str:
    """Why every stage of a shard is stale: "landmarks: 1 input:faces; iris: follows"."""
    plan = planner.table(table)
    here = plan.shard_codes == plan.shard_names.index(shard)
    told = []
    for stage in stages:
        rows = plan.stages[stage.name]
        reasons = explain_rows(stage, replace(rows, stale=rows.stale & here))
        words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "follows"
        told.append(f"{stage.name}: {words}")
    return "; ".join(told)


@dataclass(frozen=True)
class Failures:
    """How often in a row a target failed, and when it did so last (seconds since the epoch)."""

    count: int
    last: float

    def due(self, seconds: float) -> float:
        """When to try again: at once after one failure, then after pauses that double up to an hour."""
        pause = seconds * (2 ** min(self.count - 1, 30) - 1)
        return self.last + min(pause, LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True)
class Activity:
    """What Dagster's runs are about at one moment.

    `busy` holds (asset, partition) of all unfinished asset runs, whoever launched them; a partition of None
    means that the run may touch any. `ours` are the unfinished runs of the refresh itself.
    """

    busy: frozenset[tuple[str, str | None]]
    ours: frozenset[str]
    reading: str | None
    failures: Mapping[str, Failures]

    def covers(self, launch: Launch) -> bool:
        """Whether a run that touches the same asset and partition is under way."""
        return any((name, key) in self.busy for name in launch.assets for key in (launch.partition, None))


def look_at_runs(instance: dg.DagsterInstance, assets: Collection[str], launcher: str) -> Activity:
    """What is queued or running now; `assets` are all there are, for runs that name none."""
    busy: set[tuple[str, str | None]] = set()
    ours: set[str] = set()
    reading = None
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if run.job_name in (DISCOVER_JOB, REFRESH_JOB):
            reading = run.run_id
            continue
        if run.tags.get(LAUNCHER_TAG) == launcher:
            ours.add(run.run_id)
        selected = [key.to_user_string() for key in run.asset_selection or ()] or assets
        busy |= {(name, _partition_of(run)) for name in selected}
    filters = dg.RunsFilter(tags={LAUNCHER_TAG: launcher})
    return Activity(frozenset(busy), frozenset(ours), reading, failures_by_target(instance, filters))


def _partition_of(run: dg.DagsterRun) -> str | None:
    """The partition of a run; None for a run without one or over several."""
    first, last = (run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    # a run of a backfill names its one partition as a range
    return run.tags.get("dagster/partition") or (first if first == last else None)


def failures_by_target(instance: dg.DagsterInstance, filters: dg.RunsFilter) -> dict[str, Failures]:
    """Failures in a row of every target (a run without one: of its job), the newest run first."""
    found: dict[str, Failures] = {}
    ended: set[str] = set()
    for record in instance.get_run_records(filters, limit=RUNS_LOOKED_AT):
        run = record.dagster_run
        target = run.tags.get(TARGET_TAG, run.job_name)
        if target in ended or not run.is_finished:
            continue
        if run.status not in BROKEN:
            ended.add(target)
        elif target in found:
            found[target] = Failures(found[target].count + 1, found[target].last)
        else:
            found[target] = Failures(1, record.end_time or record.update_timestamp.timestamp())
    return found
