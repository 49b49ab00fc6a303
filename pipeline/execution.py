"""Run stages over shards, upstream first: what `orchard run` does, without its printing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.artifacts import UpstreamPending, run_artifact
from assets.planner import Planner, Retry
from assets.runner import ShardResult, run_shard
from assets.stage import ArtifactStage, RowStage, Stage, StageGraph
from resources.lake.lake import Lake

FEW_SHARDS = 20
"""Up to so many shards are planned one by one; for more the whole table is read, in order."""


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
    outlook = Outlook(lake, graph, stages, shards, force, retry)
    for name in graph.names:
        if name not in stages:
            continue
        stage = graph[name]
        before = time.monotonic()
        if isinstance(stage, RowStage):
            computed = _run_rows(outlook, stage, device, progress, report)
        elif isinstance(stage, ArtifactStage):
            computed = _run_one(outlook, stage, device, progress, report)
        else:
            raise TypeError(f"{name} is neither a row stage nor an artifact stage")
        if computed:
            outlook.changed_by(stage)
        report.computed_rows[name] = computed
        progress.finish(name, computed, time.monotonic() - before)
    report.seconds = time.monotonic() - started
    return report


class Outlook:
    """What a run still has to look at, from one plan of everything at its beginning.

    In that plan every row that the run can make stale is stale or waits for what is. So after a stage was
    computed only the shards of such rows are planned again, and nothing at all while nothing was computed. An
    artifact may bring new rows and shards (a release does): after one everything is planned anew.
    """

    def __init__(
        self,
        lake: Lake,
        graph: StageGraph,
        stages: Collection[str],
        shards: Collection[str] | None,
        force: bool,
        retry: Retry | None,
    ) -> None:
        self.lake, self.graph, self.stages, self.shards = lake, graph, stages, shards
        self.force, self.retry = force, retry
        self._first: Planner | None = None
        self._latest: Planner | None = None
        self._is_current = False

    @property
    def latest(self) -> Planner:
        """The newest plan made, of whatever part: what it read need not be read again."""
        return self._latest or self.planner

    @property
    def planner(self) -> Planner:
        """The plan of everything, made when it is first asked for."""
        if self._first is None:
            retried = dict.fromkeys(self.stages, self.retry) if self.retry else {}
            self._first = Planner(self.lake, self.graph, self.stages if self.force else [], retried)
            # a plan that wishes for several stages says of the later ones that they wait for the earlier
            self._is_current = not self.force and not self.retry
        return self._first

    def changed_by(self, stage: Stage) -> None:
        """The stage computed something."""
        self._is_current = False
        if isinstance(stage, ArtifactStage):
            self._first = None

    def plan(self, stage: RowStage) -> tuple[list[str], int]:
        """Shards with stale rows in a stage today, and how many rows can be computed now."""
        whole = self.planner.table(stage.table)
        rows = whole.stages[stage.name]
        unsure = [
            shard
            for shard in whole.shard_counts(rows.stale | rows.waiting)
            if self.shards is None or shard in self.shards
        ]
        tables = [whole]
        if unsure and not self._is_current:
            forced, retried = self._wishes(stage)
            planner = self._latest = Planner(self.lake, self.graph, forced, retried, self.latest)
            few = len(unsure) <= FEW_SHARDS
            tables = [planner.table(stage.table, shard) for shard in (unsure if few else [None])]
        stale, ready = Counter[str](), Counter[str]()
        for table in tables:
            stale.update(table.shard_counts(table.stages[stage.name].stale))
            ready.update(table.shard_counts(table.stages[stage.name].ready))
        todo = [shard for shard in unsure if stale[shard]]
        return todo, sum(ready[shard] for shard in todo)

    def is_fresh(self, stage: ArtifactStage) -> bool:
        """Whether nothing was computed so far and the artifact is made from today's inputs."""
        planner = self.planner
        if not self._is_current:
            return False
        found = planner.artifact(stage.name)
        return not found.stale and not found.waiting

    def _wishes(self, stage: Stage) -> tuple[list[str], dict[str, Retry]]:
        return [stage.name] if self.force else [], {stage.name: self.retry} if self.retry else {}


def _run_rows(outlook: Outlook, stage: RowStage, device: str, progress: Progress, report: RunReport) -> int:
    stale, ready = outlook.plan(stage)
    progress.start(stage.name, ready, len(stale))
    results: list[ShardResult] = []
    for shard in stale:
        result = run_shard(
            outlook.lake,
            outlook.graph,
            stage,
            shard,
            device=device,
            force=outlook.force,
            retry=outlook.retry,
            report=progress.say,
            on_rows=lambda count: progress.advance(stage.name, count),
            earlier=outlook.latest,
        )
        results.append(result)
    waiting = sum(result.pending for result in results)
    if waiting:
        report.waiting_rows[stage.name] = waiting
    return sum(result.computed for result in results)


def _run_one(
    outlook: Outlook, stage: ArtifactStage, device: str, progress: Progress, report: RunReport
) -> int:
    progress.start(stage.name, 1, 1)
    if outlook.is_fresh(stage):
        return 0
    try:
        result = run_artifact(
            outlook.lake, outlook.graph, stage, device=device, force=outlook.force, report=progress.say
        )
    except UpstreamPending as error:
        report.waiting[stage.name] = str(error)
        progress.say(str(error))
        return 0
    progress.advance(stage.name, 1)
    return int(result.made)
