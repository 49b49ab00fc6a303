"""Make an artifact stage's one result, if it is stale, and register it in the lake."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from assets.planner import Planner
from assets.stage import ArtifactStage, StageContext, StageGraph
from resources.compute.device import choose_device
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.lake import Artifact, Lake
from resources.lake.locks import works_on_lake


class UpstreamPending(LakeError):
    """The artifact cannot be made yet: rows or artifacts it is made from are stale or missing."""


@dataclass(frozen=True)
class ArtifactResult:
    """The current artifact, and whether it was made just now."""

    artifact: Artifact
    made: bool
    seconds: float


@works_on_lake
def run_artifact(
    lake: Lake,
    graph: StageGraph,
    stage: ArtifactStage,
    *,
    device: str = "auto",
    force: bool = False,
    report: Callable[[str], None] = print,
) -> ArtifactResult:
    """Make the artifact unless the current one was made from today's inputs.

    Raises UpstreamPending when its inputs are not all fresh.
    """
    started = time.monotonic()
    plan = Planner(lake, graph, forced=[stage.name] if force else []).artifact(stage.name)
    if plan.waiting or plan.expected is None:
        needed = ", ".join(item.stage for item in stage.tracked)
        raise UpstreamPending(
            f"{stage.name} waits for {needed}: `orchard plan` shows what is stale there, "
            f"`orchard run {needed.replace(',', '')} {stage.name}` computes it first"
        )
    if not plan.stale and plan.current is not None:
        return ArtifactResult(plan.current, False, time.monotonic() - started)
    choice = choose_device(device)
    if stage.weights:
        report(f"{stage.name}: {choice.reason}")
    context = StageContext(lake, stage.resolve_weights(), choice.device, report)
    artifact = stage.build(context, plan.expected)
    if artifact.fingerprint != plan.expected or artifact.stage != stage.name:
        raise ValueError(f"{stage.name} built an artifact for another fingerprint or stage")
    crash_point("before_write")
    lake.record_artifact(artifact)
    crash_point("after_commit")
    if stage.finish is not None:
        stage.finish(lake, artifact)
    return ArtifactResult(artifact, True, time.monotonic() - started)
