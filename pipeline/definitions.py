"""Everything Dagster should know: assets of one profile, the lake, the refresh schedule and its job.

Which lake and which profile come from ORCHARD_LAKE and ORCHARD_PROFILE; `orchard ui` sets both.
"""

from __future__ import annotations

import os

import dagster as dg

from assets.dagster_assets import build_assets, build_checks
from pipeline.automation import defined_profile, refresh_job, refresh_schedule, sync_sensor
from pipeline.options import DEFAULT_LAKE
from pipeline.profiles import profile
from resources.lake.resource import LakeResource


def build_definitions(lake_uri: str, profile_name: str, device: str = "auto") -> dg.Definitions:
    """Definitions for one lake and one profile."""
    graph = profile(profile_name).graph()
    return dg.Definitions(
        assets=build_assets(graph),
        asset_checks=build_checks(graph),
        jobs=[refresh_job],
        schedules=[refresh_schedule],
        sensors=[sync_sensor],
        resources={"lake": LakeResource(uri=lake_uri, device=device)},
        # stages are heavy and hold their models: one process per run, not one per step
        executor=dg.in_process_executor,
    )


defs = build_definitions(
    os.environ.get("ORCHARD_LAKE", DEFAULT_LAKE),
    defined_profile(),
    os.environ.get("ORCHARD_DEVICE", "auto"),
)
