"""A worker process of a cluster: it passes over shards as the runner does, and writes but never commits.

It knows nothing of the cluster. What it is told and what it tells are the plain classes below, and a pass is
the same `ShardPass` that runs in one process, on the newest version of the lake that it sees when it begins.
"""

from __future__ import annotations

import hashlib
import pickle
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from assets.batches import BatchLimits, StageFault
from assets.commits import StagedGroup, stage_rows, valid_rows
from assets.planner import Planner
from assets.runner import load_model
from assets.shard_pass import ComputedRow, ShardPass
from assets.stage import RowModel, RowStage, StageGraph
from resources.compute.device import DeviceUnavailable, choose_device, limit_threads
from resources.compute.source import source_digest
from resources.compute.usage import DeviceUse, device_use
from resources.lake.lake import Lake
from resources.lake.locks import at_work_on

HELD_SECONDS = 600.0
"""What was computed is kept so long for its driver, who may have died; mostly it says sooner to forget it."""


@dataclass(frozen=True)
class Assignment:
    """One pass over a shard, as `ShardPass` has it, but for the rows in `without`.

    `lowered` are batch sizes that did not fit.
    """

    lake_uri: str
    shard: str
    stages: tuple[str, ...]
    seconds: float
    wished: Mapping[str, frozenset[int]]
    within: frozenset[int] | None = None
    without: frozenset[int] = frozenset()
    lowered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Loading:
    """A stage's model is about to be loaded."""

    stage: str


@dataclass(frozen=True)
class Progress:
    """Rows are about to be computed; `computed` and `said` are what happened since this was told last."""

    stage: str
    row_ids: tuple[int, ...]
    computed: Mapping[str, int]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Passed:
    """The pass is over: data files are written, and wait for the driver's commit.

    `token` names what was computed, by stage in `row_ids`, until it is released. A `fault` of one stage
    stopped the pass; the other stages' rows are written none the less.
    """

    token: str
    staged: Mapping[str, tuple[StagedGroup, ...]]
    row_ids: Mapping[str, frozenset[int]]
    computed: Mapping[str, int]
    said: tuple[str, ...]
    seconds: Mapping[str, float]
    model_seconds: Mapping[str, float]
    lowered: Mapping[str, int]
    use: DeviceUse
    fault: str | None = None


@dataclass
class _Held:
    """What a pass computed, in case it has to be merged anew."""

    planner: Planner
    shard: str
    done: dict[str, dict[int, ComputedRow]]
    since: float


class RowWorker:
    """What is in a worker process: loaded models, and computed rows that are not committed yet.

    Args:
        source: digest of the driver's source files; another one here is refused.
        device: as `--device`.
        num_gpus: what the process was given. With a GPU, `auto` must find one.
        threads: how many threads its libraries may use.

    Raises DeviceUnavailable where the source differs or a GPU that was given cannot be used.
    """

    def __init__(self, source: str, device: str, num_gpus: float, threads: int) -> None:
        if source_digest() != source:
            raise DeviceUnavailable(
                f"this node has other code than the driver (source {source_digest()}, not {source}); install "
                "the same Orchard on every node"
            )
        limit_threads(max(1, threads))
        self.device = _device(device, num_gpus)
        self._graphs: dict[str, StageGraph] = {}
        self._planner: Planner | None = None
        self._held: dict[str, _Held] = {}

    def compute(self, graph_bytes: bytes, assignment: Assignment) -> Iterator[Loading | Progress | Passed]:
        """Pass over a shard, telling every batch before it is computed; the last item is a Passed."""
        self._drop_old()
        graph = self._graph(graph_bytes)
        lake = Lake.open(assignment.lake_uri)
        with at_work_on(lake):
            planner = self._planner = Planner(lake, graph, earlier=self._planner)
            stages = [_row_stage(graph, name) for name in assignment.stages]
            said: list[str] = []
            counts: Counter[str] = Counter()
            limits = BatchLimits(said.append, dict(assignment.lowered))

            def model_of(stage: RowStage) -> RowModel:
                return load_model(lake, graph, stage, self.device, said.append)

            work = ShardPass(
                planner,
                stages,
                assignment.shard,
                assignment.wished,
                model_of=model_of,
                on_rows=lambda name, count: counts.update({name: count}),
                limits=limits,
                within=assignment.within,
                without=assignment.without,
            )
            fault, loaded = None, set[str]()
            try:
                for batch in work.batches(assignment.seconds):
                    if batch.stage not in loaded:
                        yield Loading(batch.stage)
                        model_of(_row_stage(graph, batch.stage))
                        loaded.add(batch.stage)
                    yield Progress(batch.stage, batch.row_ids, _taken(counts), _drained(said))
            except StageFault as error:
                fault = str(error)
            done = {
                stage.name: {} if fault and stage.name == work.running else work.done[stage.name]
                for stage in stages
            }
            table = planner.table(stages[0].table, assignment.shard)
            staged, seconds = {}, dict(work.seconds)
            for stage in stages:
                started = time.monotonic()
                staged[stage.name] = tuple(stage_rows(table, stage, done[stage.name]))
                seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - started
        token = uuid.uuid4().hex
        self._held[token] = _Held(planner, assignment.shard, done, time.monotonic())
        yield Passed(
            token=token,
            staged=staged,
            row_ids={name: frozenset(rows) for name, rows in done.items()},
            computed=_taken(counts),
            said=_drained(said),
            seconds=seconds,
            model_seconds=dict(work.model_seconds),
            lowered=dict(limits.lowered),
            use=device_use(),
            fault=fault,
        )

    def merge_again(self, token: str, name: str) -> tuple[StagedGroup, ...]:
        """Merge what a pass computed of a stage at the newest version, without rows no longer valid."""
        held = self._held[token]
        lake = Lake.open(held.planner.lake.uri)
        with at_work_on(lake):
            planner = Planner(lake, held.planner.graph, earlier=held.planner)
            stage = _row_stage(planner.graph, name)
            table = planner.table(stage.table, held.shard)
            return tuple(stage_rows(table, stage, valid_rows(table, stage, held.done[name])))

    def release(self, token: str) -> None:
        """Forget what a pass computed: it is committed, or given up."""
        self._held.pop(token, None)

    def _graph(self, graph_bytes: bytes) -> StageGraph:
        key = hashlib.sha256(graph_bytes).hexdigest()
        if key not in self._graphs:
            self._graphs = {key: pickle.loads(graph_bytes)}
            self._planner = None
        return self._graphs[key]

    def _drop_old(self) -> None:
        now = time.monotonic()
        self._held = {token: held for token, held in self._held.items() if now - held.since < HELD_SECONDS}


def _device(asked: str, num_gpus: float) -> str:
    if not num_gpus:
        return asked
    choice = choose_device(asked)
    if choice.device == "cpu" and asked == "auto":
        raise DeviceUnavailable(
            f"the stage asks for {num_gpus:g} GPU and was placed on a node that has them, but {choice.reason}"
        )
    return asked


def _row_stage(graph: StageGraph, name: str) -> RowStage:
    stage = graph[name]
    if not isinstance(stage, RowStage):
        raise TypeError(f"{name} has no rows")
    return stage


def _taken(counts: Counter[str]) -> dict[str, int]:
    found = dict(counts)
    counts.clear()
    return found


def _drained(said: list[str]) -> tuple[str, ...]:
    found = tuple(said)
    said.clear()
    return found
