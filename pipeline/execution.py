"""Run stages over shards, upstream first: what `orchard run` does, without its printing."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.artifacts import UpstreamPending, run_artifact
from assets.planner import Planner, Retry
from assets.runner import ShardResult, run_shard
from assets.stage import ArtifactStage, RowStage, StageGraph
from resources.lake.lake import Lake


class Progress:
    """What a run tells while it goes on; every method may be overridden, none has to be."""

    def start(self, stage: str, rows: int, shards: int) -> None:
        """A stage begins with so many rows to compute."""

    def advance(self, stage: str, rows: int) -> None:
        """Rows were computed (they are in the lake after the next commit)."""

    def say(self, text: str) -> None:
        """A sentence for people."""

    def finish(self, stage: str, computed: int, seconds: float) -> None:
        """A stage ended."""


@dataclass
class RunReport:
    """What a run did."""

    computed_rows: dict[str, int] = field(default_factory=dict)
    waiting_rows: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "computed_rows": self.computed_rows,
            "waiting_rows": self.waiting_rows,
            "waiting": self.waiting,
            "seconds": round(self.seconds, 3),
        }


def run_stages(
    lake: Lake,
    graph: StageGraph,
    stages: Sequence[str],
    *,
    shards: Collection[str] | None = None,
    force: bool = False,
    retry: Retry | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> RunReport:
    """Compute what is stale in `stages`, in topological order, and what is to be tried again.

    Rows and artifacts that wait for a stage which is not being run are reported, not computed.

    Raises StageFault and LakeError; what was committed before stays.
    """
    progress = progress or Progress()
    report = RunReport()
    started = time.monotonic()
    for name in graph.names:
        if name not in stages:
            continue
        stage = graph[name]
        before = time.monotonic()
        if isinstance(stage, RowStage):
            computed = _run_rows(lake, graph, stage, shards, force, retry, device, progress, report)
        elif isinstance(stage, ArtifactStage):
            computed = _run_one(lake, graph, stage, force, device, progress, report)
        else:
            raise TypeError(f"{name} is neither a row stage nor an artifact stage")
        report.computed_rows[name] = computed
        progress.finish(name, computed, time.monotonic() - before)
    report.seconds = time.monotonic() - started
    return report


def _run_rows(
    lake: Lake,
    graph: StageGraph,
    stage: RowStage,
    shards: Collection[str] | None,
    force: bool,
    retry: Retry | None,
    device: str,
    progress: Progress,
    report: RunReport,
) -> int:
    retried = {stage.name: retry} if retry else {}
    table = Planner(lake, graph, [stage.name] if force else [], retried).table(stage.table)
    rows = table.stages[stage.name]
    stale = [shard for shard in table.shard_counts(rows.stale) if shards is None or shard in shards]
    ready = table.shard_counts(rows.ready)
    todo = sum(ready.get(shard, 0) for shard in stale)
    progress.start(stage.name, todo, len(stale))
    results: list[ShardResult] = []
    for shard in stale:
        result = run_shard(
            lake,
            graph,
            stage,
            shard,
            device=device,
            force=force,
            retry=retry,
            report=progress.say,
            on_rows=lambda count: progress.advance(stage.name, count),
        )
        results.append(result)
    waiting = sum(result.pending for result in results)
    if waiting:
        report.waiting_rows[stage.name] = waiting
    return sum(result.computed for result in results)


def _run_one(
    lake: Lake,
    graph: StageGraph,
    stage: ArtifactStage,
    force: bool,
    device: str,
    progress: Progress,
    report: RunReport,
) -> int:
    progress.start(stage.name, 1, 1)
    try:
        result = run_artifact(lake, graph, stage, device=device, force=force, report=progress.say)
    except UpstreamPending as error:
        report.waiting[stage.name] = str(error)
        progress.say(str(error))
        return 0
    progress.advance(stage.name, 1)
    return int(result.made)
