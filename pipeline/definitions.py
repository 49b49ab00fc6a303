"""Everything Dagster should know: assets of one profile, the lake, the automation and its jobs.

Which lake and which profile come from ORCHARD_LAKE and ORCHARD_PROFILE; `orchard ui` sets both. What the
automation may do comes from ORCHARD_REFRESH_CRON, _SECONDS, _STAGES and _PRUNE.
"""

from __future__ import annotations

import os

import dagster as dg

from assets.dagster_assets import build_assets, build_checks
from assets.stage import StageGraph
from pipeline.automation.discovery import discover_job, refresh_job
from pipeline.automation.sensors import build_automation
from pipeline.automation.settings import AutomationSettings, defined_profile
from pipeline.options import DEFAULT_LAKE
from pipeline.profiles import profile
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource


def build_definitions(
    lake_uri: str,
    profile_name: str,
    device: str = "auto",
    settings: AutomationSettings | None = None,
) -> dg.Definitions:
    """Definitions for one lake and one profile."""
    graph = _graph(lake_uri, profile_name)
    automation = build_automation(graph, settings or AutomationSettings())
    return dg.Definitions(
        assets=build_assets(graph),
        asset_checks=build_checks(graph),
        jobs=[discover_job, refresh_job],
        schedules=automation.schedules,
        sensors=automation.sensors,
        resources={"lake": LakeResource(uri=lake_uri, device=device)},
        # stages are heavy and hold their models: one process per run, not one per step
        executor=dg.in_process_executor,
    )


def _graph(lake_uri: str, profile_name: str) -> StageGraph:
    """The stages of the default recipe, and of the others that live in the lake, if there is one already."""
    lake = Lake.locate(lake_uri)
    chosen = profile(profile_name)
    return chosen.graph_of(lake) if lake.recipe_list.exists() else chosen.graph()


defs = build_definitions(
    os.environ.get("ORCHARD_LAKE", DEFAULT_LAKE),
    defined_profile(),
    os.environ.get("ORCHARD_DEVICE", "auto"),
    AutomationSettings.from_environment(),
)
