"""The assets of `benches.scale` for Dagster's own daemon and webserver: our shipped assets over its stages.

ORCHARD_LAKE names the lake. The code of both row stages is the one that the daemon's backfill brings in.
"""

from __future__ import annotations

import os

import dagster as dg

from assets.dagster_assets import build_assets, build_checks
from benches.scale_lake import FOR_DAEMON, scale_graph
from resources.lake.resource import LakeResource

_graph = scale_graph(FOR_DAEMON)

defs = dg.Definitions(
    assets=build_assets(_graph),
    asset_checks=build_checks(_graph),
    resources={"lake": LakeResource(uri=os.environ["ORCHARD_LAKE"], device="cpu")},
    executor=dg.in_process_executor,
)
