"""Run stages over shards, upstream first: what `orchard run` does, without its printing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assets.artifacts import UpstreamPending, run_artifact
from assets.engine import Engine, LocalEngine, ShardWork
from assets.planner import Planner, Retry
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
    """What a run did; `model_seconds` is what the row stages' models took of it, wherever they ran."""

    computed_rows: dict[str, int] = field(default_factory=dict)
    model_seconds: dict[str, float] = field(default_factory=dict)
    waiting_rows: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "computed_rows": self.computed_rows,
            "model_seconds": {name: round(value, 3) for name, value in self.model_seconds.items()},
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
    engine: Engine | None = None,
) -> RunReport:
    """Compute what is stale in `stages`, in topological order, and what is to be tried again.

    Row stages run together where they can, shard by shard, on photographs that are decoded once: in this
    process, or where another `engine` has them computed. Artifacts are always made in this process. Rows and
    artifacts that wait for a stage which is not being run are reported, not computed.

    Raises StageFault and LakeError; what was committed before stays.
    """
    progress, engine = progress or Progress(), engine or LocalEngine()
    report = RunReport()
    started = time.monotonic()
    outlook = Outlook(lake, graph, stages, shards, force, retry)
    for step in _steps(graph, stages, engine):
        if isinstance(step, ArtifactStage):
            _run_one(outlook, step, device, progress, report)
        else:
            _run_rows(outlook, step, engine, device, progress, report)
    report.seconds = time.monotonic() - started
    return report


def _steps(
    graph: StageGraph, names: Collection[str], engine: Engine
) -> Iterator[ArtifactStage | list[RowStage]]:
    """The chosen stages in topological order: artifacts one by one, row stages in groups."""
    rows: list[RowStage] = []
    for stage in graph.stages:
        if stage.name not in names:
            continue
        if isinstance(stage, RowStage):
            rows.append(stage)
        elif isinstance(stage, ArtifactStage):
            yield from engine.groups(graph, rows)
            rows = []
            yield stage
        else:
            raise TypeError(f"{stage.name} is neither a row stage nor an artifact stage")
    yield from engine.groups(graph, rows)


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

    def plan(self, stages: Sequence[RowStage]) -> tuple[list[str], Counter[str]]:
        """Shards with stale rows in any of these stages today, and how many rows each has to compute there.

        Rows that wait for another of these stages are counted: most of them will be computed too.
        """
        names = {stage.name for stage in stages}
        whole = self.planner.table(stages[0].table)
        unfinished = (whole.stages[name].stale | whole.stages[name].waiting for name in names)
        unsure = [
            shard
            for shard in whole.shard_counts(np.logical_or.reduce(list(unfinished)))
            if self.shards is None or shard in self.shards
        ]
        tables = [whole]
        if unsure and not self._is_current:
            forced = names if self.force else []
            retried = dict.fromkeys(names, self.retry) if self.retry else {}
            planner = self._latest = Planner(self.lake, self.graph, forced, retried, self.latest)
            few = len(unsure) <= FEW_SHARDS
            tables = [planner.table(stages[0].table, shard) for shard in (unsure if few else [None])]
        stale, todo = set[str](), Counter[str]()
        for table in tables:
            for stage in stages:
                rows = table.stages[stage.name]
                stale.update(table.shard_counts(rows.stale))
                follows = any(item.stage in names for item in stage.inputs)
                counts = table.shard_counts(rows.stale | rows.waiting if follows else rows.ready)
                todo[stage.name] += sum(counts[shard] for shard in unsure if shard in counts)
        return [shard for shard in unsure if shard in stale], todo

    def is_fresh(self, stage: ArtifactStage) -> bool:
        """Whether nothing was computed so far and the artifact is made from today's inputs."""
        planner = self.planner
        if not self._is_current:
            return False
        found = planner.artifact(stage.name)
        return not found.stale and not found.waiting


def _run_rows(
    outlook: Outlook,
    stages: Sequence[RowStage],
    engine: Engine,
    device: str,
    progress: Progress,
    report: RunReport,
) -> None:
    started = time.monotonic()
    shards, rows = outlook.plan(stages)
    for stage in stages:
        progress.start(stage.name, rows[stage.name], len(shards))
    computed, waiting, seconds = Counter[str](), Counter[str](), dict.fromkeys(rows, 0.0)
    in_models, used = dict.fromkeys(rows, 0.0), set[str]()
    work = ShardWork(
        outlook.lake,
        outlook.graph,
        stages,
        shards,
        device=device,
        force=outlook.force,
        retry=outlook.retry,
        report=progress.say,
        on_rows=progress.advance,
        earlier=outlook.latest,
    )
    for results in engine.run(work):
        for name, result in results.items():
            computed[name] += result.computed
            waiting[name] += result.pending
            seconds[name] += result.seconds
            in_models[name] += result.model_seconds
            used.add(result.device_use)
    for stage in stages:
        if computed[stage.name]:
            outlook.changed_by(stage)
        if waiting[stage.name]:
            report.waiting_rows[stage.name] = waiting[stage.name]
        report.computed_rows[stage.name] = computed[stage.name]
        report.model_seconds[stage.name] = in_models[stage.name]
        progress.finish(stage.name, computed[stage.name], seconds[stage.name])
    busy, wall, total = sum(seconds.values()), time.monotonic() - started, computed.total()
    if total and busy:
        share = sum(in_models.values()) / busy
        progress.say(
            f"{'+'.join(rows)}: {total} rows in {wall:.1f} s, {total / wall:.1f} rows/s; "
            f"{share:.0%} of {busy:.1f} s of work were in the models; {', '.join(sorted(used))}"
        )


def _run_one(
    outlook: Outlook, stage: ArtifactStage, device: str, progress: Progress, report: RunReport
) -> None:
    started = time.monotonic()
    progress.start(stage.name, 1, 1)
    made = not outlook.is_fresh(stage) and _make(outlook, stage, device, progress, report)
    if made:
        outlook.changed_by(stage)
    report.computed_rows[stage.name] = int(made)
    progress.finish(stage.name, int(made), time.monotonic() - started)


def _make(outlook: Outlook, stage: ArtifactStage, device: str, progress: Progress, report: RunReport) -> bool:
    try:
        result = run_artifact(
            outlook.lake, outlook.graph, stage, device=device, force=outlook.force, report=progress.say
        )
    except UpstreamPending as error:
        report.waiting[stage.name] = str(error)
        progress.say(str(error))
        return False
    progress.advance(stage.name, 1)
    return result.made
