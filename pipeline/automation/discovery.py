"""Discovery: read every ingested folder again. Ingest is a run of its own, and may take as long as it needs.

`discover_job` only finds out what changed; the sensor `stale_shards` then launches what became stale.
`refresh_job` does both in one run, for a machine without a daemon.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.dagster_assets import GPU_POOL, register_partitions
from assets.engine import make_engine
from assets.stage import StageGraph
from pipeline.automation.settings import AutomationSettings, defined_profile, refreshed_stages
from pipeline.profiles import profile
from resources.lake.ingest import ingest, source_path, source_roots
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource
from resources.photos.layouts import Layout, scan

DISCOVER_JOB = "discover_job"
REFRESH_JOB = "refresh_job"

INGEST_WAIT_SECONDS = 3600.0
"""How long a refresh waits for another ingest on the same lake."""

NAMES_SHOWN = 20
"""How many removed photographs are named in the log."""


class DiscoverConfig(dg.Config):
    """How the source folders are read again."""

    prune: bool | None = Field(
        default=None,
        description="Drop the rows of photographs whose files are gone; none means ORCHARD_REFRESH_PRUNE, "
        "and that means no. A folder that is missing or empty is never pruned: its disk may be unmounted.",
    )


class RefreshConfig(DiscoverConfig):
    """What the refresh in one run does beyond reading the source folders again."""

    profile: str | None = Field(
        default=None, description="Profile whose stages are computed; none means that of these definitions."
    )
    stages: list[str] = Field(
        default=[],
        description="Stages to compute where stale, or `all`; none named means ORCHARD_REFRESH_STAGES, and "
        "that means the row stages of photographs and the release.",
    )


def discover(lake: Lake, log: Any, prune: bool) -> dict[str, Any]:
    """Make the lake hold the photographs of all folders it was ever given; returns a report by folder.

    A folder that is not there is passed over with a warning. Rows of photographs that are gone are kept
    unless `prune`, and always where the folder holds no photograph at all. `log` is Dagster's.
    """
    reports: dict[str, Any] = {}
    for root in source_roots(lake):
        folder = source_path(root.path)
        if not folder.is_dir():
            log.warning("source folder %s is not there; its rows are kept", root.path)
            continue
        empty = _is_empty(folder, root.layout)
        if empty:
            log.warning("source folder %s holds no photograph; its rows are kept", root.path)
            continue
        report = ingest(
            lake,
            folder,
            layout=root.layout,
            shard_size=root.shard_size,
            prune=prune,
            wait_seconds=INGEST_WAIT_SECONDS,
        )
        reports[root.path] = report.as_json()
        if report.removed:
            names = ", ".join(report.removed[:NAMES_SHOWN])
            done = "dropped" if report.pruned else "kept"
            log.warning("%s files are gone, their rows %s: %s", len(report.removed), done, names)
        log.info(
            "%s: %s added, %s replaced, %s unchanged, %s removed",
            *(root.path, report.added, report.replaced, report.unchanged, len(report.removed)),
        )
    return reports


def _is_empty(folder: Path, layout: Layout) -> bool:
    """Whether a folder holds no candidate, not even in folders below it."""
    if not any(folder.iterdir()):
        return True  # a layout may ask for folders that an empty mount point does not have
    return next(scan(folder, layout, lambda skipped: None), None) is None


def _discover_for_dagster(
    context: dg.OpExecutionContext, lake: Lake, graph: StageGraph, prune: bool | None
) -> dict[str, Any]:
    """Discover, and tell Dagster: partitions of new shards, data versions of changed ones."""
    from pipeline.dagster_sync import report_versions

    if prune is None:
        prune = AutomationSettings.from_environment().prune
    found = discover(lake, context.log, prune)
    graph.prepare(lake)
    register_partitions(context.instance, lake)
    report_versions(context.instance, lake, graph)
    return found


@dg.op
def discover_photographs(context: dg.OpExecutionContext, config: DiscoverConfig, lake: LakeResource) -> None:
    """Read all known source folders again; compute nothing."""
    opened = lake.open()
    graph = profile(defined_profile()).graph_of(opened)
    context.add_output_metadata({"ingested": _discover_for_dagster(context, opened, graph, config.prune)})


@dg.job(
    name=DISCOVER_JOB,
    description="Discover new, changed and removed photographs. The sensor stale_shards then launches what "
    "is stale.",
)
def discover_job() -> None:
    """The first half of a refresh."""
    discover_photographs()


@dg.op(pool=GPU_POOL)
def refresh_lake(context: dg.OpExecutionContext, config: RefreshConfig, lake: LakeResource) -> None:
    """Read all known source folders again, then compute whatever is stale."""
    from pipeline.dagster_sync import report_versions
    from pipeline.execution import Progress, run_stages

    class LogProgress(Progress):
        def say(self, text: str) -> None:
            context.log.info(text)

    opened = lake.open()
    graph = profile(config.profile or defined_profile()).graph_of(opened)
    stages = refreshed_stages(graph, config.stages or AutomationSettings.from_environment().stages)
    ingested = _discover_for_dagster(context, opened, graph, config.prune)
    choice = lake.engine_choice()
    context.log.info(f"engine {choice.name}: {choice.reason}")
    done = run_stages(
        opened, graph, stages, device=lake.device, progress=LogProgress(), engine=make_engine(choice)
    )
    register_partitions(context.instance, opened)
    report_versions(context.instance, opened, graph)
    context.log.info("computed %s", done.as_json())
    context.add_output_metadata({"ingested": ingested, **done.as_json()})


@dg.job(
    name=REFRESH_JOB,
    description="Discover new, changed and removed photographs and compute what is stale, in one run: for a "
    "machine without a daemon.",
)
def refresh_job() -> None:
    """A whole refresh as one run."""
    refresh_lake()
