"""The schedule and the sensors that the daemon evaluates: none of them computes anything.

| name | launches |
|---|---|
| `refresh_schedule` | `discover_job`, on schedule |
| `source_folders` | `discover_job`, when a source folder changed and has settled |
| `stale_shards` | runs of assets for what is stale, after a discovery succeeded |
| `lake_partitions` | nothing; it keeps Dagster's partitions in step with the lake |
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from assets.dagster_assets import register_partitions
from assets.planner import Planner
from assets.stage import StageGraph
from pipeline.automation.dead_runs import end_dead_runs
from pipeline.automation.discovery import DISCOVER_JOB, discover_job
from pipeline.automation.folder_watch import FolderState, Verdict, observe
from pipeline.automation.launching import (
    LAUNCHER_TAG,
    UNFINISHED,
    WHY_TAG,
    Launch,
    failures_by_target,
    look_at_runs,
    stale_launches,
)
from pipeline.automation.settings import AutomationSettings
from resources.lake.ingest import source_path, source_roots
from resources.lake.resource import LakeResource
from resources.lake.schema import FACES_STAGE

SCHEDULE = "refresh_schedule"
SOURCE_SENSOR = "source_folders"
STALE_SENSOR = "stale_shards"
PARTITION_SENSOR = "lake_partitions"

ASSET_JOB = "__ASSET_JOB"
"""Dagster's own job of all assets, which the UI launches, too; a job of ours may mix no partitions."""

MOST_RUNS = 20
"""So many runs of the refresh are queued or running at most; the others follow as these end."""


@dataclass(frozen=True)
class Automation:
    """What definitions take."""

    schedules: list[dg.ScheduleDefinition]
    sensors: list[dg.SensorDefinition]


def build_automation(graph: StageGraph, settings: AutomationSettings) -> Automation:
    """Schedule and sensors for the stages of one profile."""
    return Automation(
        [refresh_schedule(settings)],
        [source_sensor(settings), stale_sensor(graph, settings), sync_sensor],
    )


def refresh_schedule(settings: AutomationSettings) -> dg.ScheduleDefinition:
    """Read the source folders again on schedule."""

    @dg.schedule(
        name=SCHEDULE,
        job=discover_job,
        cron_schedule=settings.cron,
        description="Discovers new, changed and removed photographs; stale_shards then launches runs.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        running = unfinished_discovery(context.instance)
        if running:
            return dg.SkipReason(f"run {running} is still reading the source folders")
        when = context.scheduled_execution_time.isoformat()
        return dg.RunRequest(run_key=when, tags={WHY_TAG: f"schedule of {when}", LAUNCHER_TAG: SCHEDULE})

    return schedule


def source_sensor(settings: AutomationSettings) -> dg.SensorDefinition:
    """Read the source folders again when they changed."""

    @dg.sensor(
        name=SOURCE_SENSOR,
        job=discover_job,
        minimum_interval_seconds=settings.seconds,
        description="Discovers photographs once a source folder changed and two looks at it agree.",
    )
    def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        running = unfinished_discovery(context.instance)
        if running:
            return dg.SkipReason(f"run {running} is reading the source folders")
        now = time.time()
        found, told, changed = look_at_folders(context.cursor, lake, int(now * 1e9))
        broken = failures_by_target(context.instance, dg.RunsFilter(job_name=DISCOVER_JOB)).get(DISCOVER_JOB)
        if broken and now >= broken.due(settings.seconds):
            changed.append("the last discovery failed")
        cursor = found.model_dump_json()
        if not changed:
            return dg.SensorResult(skip_reason="; ".join(told) or "no folder was ingested yet", cursor=cursor)
        request = dg.RunRequest(
            run_key=f"{SOURCE_SENSOR}@{now:.3f}",
            tags={WHY_TAG: "; ".join(changed), LAUNCHER_TAG: SOURCE_SENSOR},
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return sensor


class FolderCursor(BaseModel):
    """What `source_folders` remembers between ticks: the state of every folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: dict[str, FolderState] = {}


def look_at_folders(
    cursor: str | None, lake: LakeResource, now_ns: int
) -> tuple[FolderCursor, list[str], list[str]]:
    """Look at all source folders: what to remember, what was seen, and which settled changes there are."""
    before = FolderCursor.model_validate_json(cursor) if cursor else FolderCursor()
    states, told, changed = dict(before.folders), [], []
    for root in source_roots(lake.open()):
        folder = source_path(root.path)
        if not folder.is_dir() or not any(folder.iterdir()):
            told.append(f"{root.path} is missing or empty")
            continue
        states[root.path], verdict = observe(folder, states.get(root.path, FolderState()), now_ns)
        told.append(f"{root.path} is {verdict.value}")
        if verdict is Verdict.CHANGED:
            changed.append(f"{root.path} changed")
    return FolderCursor(folders=states), told, changed


def unfinished_discovery(instance: dg.DagsterInstance) -> str | None:
    """A run of `discover_job` that is queued or running."""
    end_dead_runs(instance)
    runs = instance.get_runs(dg.RunsFilter(job_name=DISCOVER_JOB, statuses=UNFINISHED), limit=1)
    return runs[0].run_id if runs else None


class StaleCursor(BaseModel):
    """What `stale_shards` remembers between ticks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    finished: str = Field(default="", description="The refresh after which nothing stale was left.")
    planned: str = Field(default="", description="The refresh that was last planned for.")
    running: tuple[str, ...] = Field(default=(), description="Runs of the refresh at that time.")
    again_at: float = Field(
        default=0.0, description="When something that failed is due again; 0: nothing is."
    )


def stale_sensor(graph: StageGraph, settings: AutomationSettings) -> dg.SensorDefinition:
    """Launch what is stale, from a successful discovery on until nothing is."""
    stages = settings.chosen(graph)
    assets = [FACES_STAGE, *graph.assets()]

    @dg.sensor(
        name=STALE_SENSOR,
        job_name=ASSET_JOB,
        minimum_interval_seconds=settings.seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="After every discovery: one run for each stale shard, artifacts once what is above them "
        f"is fresh, what failed again at the next tick. Stages: {', '.join(stages)}.",
    )
    def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        refresh = newest_discovery(context.instance)
        cursor = StaleCursor.model_validate_json(context.cursor) if context.cursor else StaleCursor()
        if refresh is None:
            return dg.SkipReason(
                f"no {DISCOVER_JOB} has succeeded yet; {SCHEDULE} and {SOURCE_SENSOR} launch it"
            )
        if refresh == cursor.finished:
            return dg.SkipReason(f"nothing was stale after refresh {refresh}")
        end_dead_runs(context.instance)
        # runs before plan: one that ends in between counts as running still, and its shard waits for a tick
        runs = look_at_runs(context.instance, assets, STALE_SENSOR)
        if runs.reading:
            return dg.SkipReason(f"run {runs.reading} is reading the source folders or refreshing on its own")
        now = time.time()
        running = tuple(sorted(runs.ours))
        if (
            running
            and (refresh, running) == (cursor.planned, cursor.running)
            and not 0 < cursor.again_at <= now
        ):
            return dg.SkipReason(f"{len(running)} runs of refresh {refresh} are under way")
        opened = lake.open()
        register_partitions(context.instance, opened)
        launches = stale_launches(Planner(opened, graph), stages)
        if not launches and not running:
            _tell_dagster(context.instance, lake, graph)
            after = StaleCursor(finished=refresh)
            return dg.SensorResult(skip_reason="nothing is stale", cursor=after.model_dump_json())
        free = [launch for launch in launches if not runs.covers(launch)]
        due = {
            launch.target: failure.due(settings.seconds)
            for launch in free
            if (failure := runs.failures.get(launch.target)) is not None
        }
        ready = [launch for launch in free if due.get(launch.target, 0.0) <= now]
        ready = ready[: max(MOST_RUNS - len(running), 0)]
        later = [when for when in due.values() if when > now]
        after = StaleCursor(
            finished=cursor.finished, planned=refresh, running=running, again_at=min(later, default=0.0)
        )
        return dg.SensorResult(
            run_requests=[_request(launch, refresh, now) for launch in ready],
            skip_reason=None if ready else _waiting(launches, free, len(running)),
            cursor=after.model_dump_json(),
        )

    return sensor


def newest_discovery(instance: dg.DagsterInstance) -> str | None:
    """The newest run of `discover_job` that succeeded."""
    filters = dg.RunsFilter(job_name=DISCOVER_JOB, statuses=[dg.DagsterRunStatus.SUCCESS])
    runs = instance.get_runs(filters, limit=1)
    return runs[0].run_id if runs else None


def _request(launch: Launch, refresh: str, now: float) -> dg.RunRequest:
    # every request needs a key of its own, and one that failed must not be taken for its earlier self
    return dg.RunRequest(
        run_key=f"{launch.target}@{now:.3f}",
        asset_selection=[dg.AssetKey(name) for name in launch.assets],
        partition_key=launch.partition,
        tags=launch.tags(refresh, STALE_SENSOR),
    )


def _waiting(launches: Sequence[Launch], free: Sequence[Launch], running: int) -> str:
    return (
        f"{len(launches)} shards and artifacts are stale: {len(launches) - len(free)} are under way, "
        f"{len(free)} wait after failing or for one of {running} runs to end"
    )


def _tell_dagster(instance: dg.DagsterInstance, lake: LakeResource, graph: StageGraph) -> None:
    """Report what Dagster does not know yet: a run can die between its commit and its event."""
    from pipeline.dagster_sync import report_versions

    report_versions(instance, lake.open(), graph)


@dg.sensor(
    name=PARTITION_SENSOR,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers the lake's shards as partitions, so that the UI offers them.",
)
def sync_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SkipReason:
    """Register new shards; never launches anything."""
    new = register_partitions(context.instance, lake.open())
    if not new:
        return dg.SkipReason("all shards are registered")
    return dg.SkipReason(f"registered {', '.join(key for keys in new.values() for key in keys)}")
