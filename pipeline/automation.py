"""Automation: a scheduled refresh of every source folder, and a sensor that keeps Dagster in step.

Both are level-triggered: they look at what is, not at what happened. A shard that failed is stale and is
launched again at the next tick; a fresh lake launches nothing.
"""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from assets.dagster_assets import GPU_POOL, register_partitions
from pipeline.options import DEFAULT_PROFILE, chosen_stages
from pipeline.profiles import profile
from resources.lake.ingest import ingest, source_path, source_roots
from resources.lake.resource import LakeResource

REFRESH_CRON = "0 * * * *"
"""Hourly; turn the schedule on in the UI."""


class RefreshConfig(dg.Config):
    """What the refresh job does beyond reading the source folders again."""

    profile: str | None = Field(
        default=None, description="Profile whose stages are computed; none means that of these definitions."
    )
    stages: list[str] = Field(
        default=[], description="Stages to compute where stale, e.g. no training; none named means all."
    )


def defined_profile() -> str:
    """The profile of the shipped definitions: ORCHARD_PROFILE, which `orchard ui` sets."""
    return os.environ.get("ORCHARD_PROFILE", DEFAULT_PROFILE)


@dg.op(pool=GPU_POOL)
def refresh_lake(context: dg.OpExecutionContext, config: RefreshConfig, lake: LakeResource) -> None:
    """Read all known source folders again, then compute whatever is stale."""
    from pipeline.dagster_sync import report_versions
    from pipeline.execution import Progress, run_stages

    class LogProgress(Progress):
        def say(self, text: str) -> None:
            context.log.info(text)

    opened = lake.open()
    graph = profile(config.profile or defined_profile()).graph()
    stages = chosen_stages(graph, config.stages)
    ingested: dict[str, Any] = {}
    for root in source_roots(opened):
        folder = source_path(root.path)
        if not folder.is_dir():
            context.log.warning("source folder %s is gone; its rows are kept", root.path)
            continue
        report = ingest(opened, folder, layout=root.layout, shard_size=root.shard_size)
        ingested[root.path] = report.as_json()
        context.log.info("%s: %s", root.path, ingested[root.path])
    graph.prepare(opened)
    register_partitions(context.instance, opened)
    done = run_stages(opened, graph, stages, device=lake.device, progress=LogProgress())
    register_partitions(context.instance, opened)
    report_versions(context.instance, opened, graph)
    context.log.info("computed %s", done.as_json())
    context.add_output_metadata({"ingested": ingested, **done.as_json()})


@dg.job(description="Discover new, changed and removed photographs; compute only what is stale.")
def refresh_job() -> None:
    """The scheduled refresh as one run."""
    refresh_lake()


refresh_schedule = dg.ScheduleDefinition(
    name="refresh_schedule",
    job=refresh_job,
    cron_schedule=REFRESH_CRON,
    description="Refresh the lake from its source folders every hour.",
)


@dg.sensor(
    name="lake_partitions",
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
