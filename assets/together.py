"""One artifact made by several processes that a launcher started: all compute, the main one keeps the books.

The main process plans, holds the lake's lock, and records the artifact. The others wait until it says under
which fingerprint something is to be built, build along, and never write. When one fails, the launcher ends
all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from assets.artifacts import ArtifactResult, run_artifact
from assets.stage import ArtifactStage, StageContext, StageGraph
from resources.lake.lake import Artifact, Lake


def train_together(
    lake: Lake,
    graph: StageGraph,
    stage: ArtifactStage,
    *,
    device: str = "auto",
    force: bool = False,
    report: Callable[[str], None] = print,
) -> ArtifactResult | None:
    """Make a checkpoint unless it is fresh; every process started by the launcher must call this.

    Returns the result in the main process, None in the others. In a process that no launcher started it is
    `run_artifact`.

    Raises what `run_artifact` raises, in the main process; the others then return.
    """
    own = start_processes(device)
    from models.swap.processes import from_main, is_main

    if not is_main():
        fingerprint = from_main(b"")
        if fingerprint:
            stage.build(StageContext(lake, stage.resolve_weights(), own, lambda text: None), fingerprint)
        return None
    told = False

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        nonlocal told
        told = True
        return stage.build(context, from_main(fingerprint))

    leading = dataclasses.replace(stage, build=build)
    try:
        return run_artifact(lake, graph, leading, device=own, force=force, report=report)
    finally:
        if not told:
            from_main(b"")


def start_processes(device: str) -> str:
    """Join the launcher's processes, if there is a launcher, and return the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    from accelerate import PartialState

    own = PartialState(cpu=device == "cpu").device
    return "cpu" if own is None or own.type == "cpu" else str(own)
