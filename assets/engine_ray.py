"""Row stages on a Ray cluster: warm actors pass over shards and write data files, this driver alone commits.

Several shards are under way at once, each on one actor, which returns at least every `COMMIT_SECONDS`. What
an actor had not handed over when it died is computed again; `lethal_rows` finds rows that kill.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from assets import runner
from assets.batches import StageFault
from assets.commits import COMMIT_ATTEMPTS, commit_rows, commit_staged, contested
from assets.engine import ShardWork
from assets.fusing import fused_groups
from assets.lethal_rows import LethalRows
from assets.planner import Planner
from assets.row_worker import Assignment, Loading, Passed, Progress, RowWorker
from assets.runner import ShardResult, account, model_key, wished_rows
from assets.shard_pass import ComputedRow
from assets.stage import RowStage, StageGraph
from resources.compute.engine_choice import EngineChoice
from resources.compute.ray_actors import NAMESPACE, Role, pickled
from resources.compute.ray_cluster import connect
from resources.compute.ray_pool import ActorGone, ActorPool, Lost, Told
from resources.compute.source import source_digest
from resources.lake.digest import quarantine_digest
from resources.lake.errors import CommitConflict
from resources.lake.lake import Lake
from resources.lake.locks import at_work_on
from resources.photos.reasons import Reason, RowError

CAREFUL_SECONDS = 2.0
"""After a death a shard's results are committed this often, so that the next one costs little."""

LOADING_DEATHS = 2
"""So many processes dying while they load a stage's model stop the run."""

LETHAL_ROWS = 3
"""So many rows that kill, before a single one of the stage was computed, are the code's fault, not theirs."""

LOSSES = 50
"""So many processes lost in one run, for whatever reason, stop it."""

OWN_VARIABLES = ("LAKE", "PROFILE", "ENGINE", "RAY_", "DEVICE", "CRASH_AT", "REFRESH_", "CACHE", "HOME")
"""Variables ORCHARD_... that are the driver's own; all others go along to the actors."""


def lake_namespace(uri: str) -> str:
    """Ray namespace of a lake's actors."""
    return f"{NAMESPACE}{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


@dataclass
class _ShardRun:
    """A shard that is under way."""

    shard: str
    wished: dict[str, set[int]]
    results: dict[str, ShardResult]
    lethal: LethalRows
    condemned: list[tuple[str, int]] = field(default_factory=list)
    latest: Loading | Progress | None = None
    passed: Passed | None = None


@dataclass
class RayEngine:
    """Row stages by actors of a Ray cluster, see `Engine`."""

    choice: EngineChoice
    lowered: dict[str, int] = field(default_factory=dict)

    def groups(self, graph: StageGraph, stages: Sequence[RowStage]) -> list[list[RowStage]]:
        """Stages that can share decoded photographs, as long as a process of them asks for the same."""
        return fused_groups(graph, stages, lambda one, other: one.resources == other.resources)

    def run(self, work: ShardWork) -> Iterator[dict[str, ShardResult]]:
        """Compute several shards at once.

        Raises ClusterUnavailable when the cluster cannot give what the stages ask for.
        """
        if not work.shards:
            return
        connect(
            self.choice.address,
            lake_namespace(work.lake.uri),
            auth=self.choice.auth,
            report=work.report,
        )
        with at_work_on(work.lake):
            yield from _RayRun(self, work).results()


class _RayRun:
    """One group of stages over their shards."""

    def __init__(self, engine: RayEngine, work: ShardWork) -> None:
        import ray

        self.work, self.lowered = work, engine.lowered
        self.names = tuple(stage.name for stage in work.stages)
        role = self._role()
        gpus, threads = role.resources.num_gpus, int(role.resources.num_cpus)
        source, device = source_digest(), work.device
        factory = pickled(lambda: RowWorker(source, device, gpus, threads))
        self.pool = ActorPool(role, factory, engine.choice.actors, len(work.shards), work.report)
        work.report(
            f"ray: {role.name} on up to {self.pool.size} processes, each with {role.resources.told()}"
        )
        self.graph = ray.put(pickled(work.graph))
        self.planner: Planner | None = work.earlier
        self.computed: Counter[str] = Counter()
        self.lethal: Counter[str] = Counter()
        self.losses, self.deaths_loading = 0, 0

    def results(self) -> Iterator[dict[str, ShardResult]]:
        """Results of the shards, as they are done."""
        todo, under_way = deque(self.work.shards), dict[str, _ShardRun]()
        due: deque[_ShardRun] = deque()
        try:
            while todo or due or under_way:
                self._submit_all(todo, due, under_way)
                for event in self.pool.events(0.5):
                    run = under_way[event.task]
                    if isinstance(event, Told):
                        self._told(run, event.item)
                        continue
                    del under_way[run.shard]
                    if isinstance(event, Lost):
                        self._lost(run, event)
                        due.append(run)
                        continue
                    if self._goes_on(run):  # before the commit, so that no process waits for it
                        self._submit_all(todo, due, under_way)
                    if self._committed(run):
                        yield self._finished(run)
                    else:
                        due.append(run)
        finally:
            self.pool.close()

    def _submit_all(self, todo: deque[str], due: deque[_ShardRun], under_way: dict[str, _ShardRun]) -> None:
        """Give every free process a shard, as long as there are any."""
        while (todo or due) and self.pool.free():
            run = due.popleft() if due else self._begin(todo.popleft())
            under_way[run.shard] = run
            self._submit(run)

    def _role(self) -> Role:
        work, first = self.work, self.work.stages[0]
        keys = [model_key(work.lake, work.graph, stage, work.device) for stage in work.stages]
        asked = first.resources
        if work.device == "cpu":
            asked = asked.model_copy(update={"num_gpus": 0.0})
        fingerprint = "|".join((source_digest(), *keys))
        return Role(lake_namespace(work.lake.uri), "+".join(self.names), fingerprint, asked, _environment())

    def _begin(self, shard: str) -> _ShardRun:
        work = self.work
        self.planner = Planner(work.lake, work.graph, earlier=self.planner)
        table = self.planner.table(work.stages[0].table, shard)
        wished = {stage.name: wished_rows(table, stage, work.force, work.retry) for stage in work.stages}
        results = {name: ShardResult(name, shard) for name in self.names}
        return _ShardRun(shard, wished, results, LethalRows(self.names))

    def _submit(self, run: _ShardRun) -> None:
        probe = run.lethal.probe
        lowered = dict(self.lowered)
        if probe is not None:  # its rows in one batch, alone
            lowered |= {
                name: min(len(probe.rows), lowered.get(name, len(probe.rows))) for name in probe.stages
            }
        run.latest = run.passed = None
        assignment = Assignment(
            lake_uri=self.work.lake.uri,
            shard=run.shard,
            stages=self.names if probe is None else probe.stages,
            seconds=CAREFUL_SECONDS if run.lethal.is_careful else runner.COMMIT_SECONDS,
            wished={name: frozenset(rows) for name, rows in run.wished.items()},
            within=None if probe is None else probe.rows,
            without=frozenset(row for _, row in run.condemned),
            lowered=lowered,
        )
        careful = run.lethal.is_careful
        self.pool.submit(run.shard, "compute", self.graph, assignment, in_step=careful)

    def _told(self, run: _ShardRun, item: Loading | Progress | Passed) -> None:
        if isinstance(item, Loading):
            run.latest = item
            return
        for text in item.said:
            self.work.report(text)
        for name, count in item.computed.items():
            self.work.on_rows(name, count)
        if isinstance(item, Progress):
            run.latest = item
        else:
            run.passed = item

    def _goes_on(self, run: _ShardRun) -> bool:
        """Whether a pass ended well; what it learned about batch sizes is known to all later ones."""
        passed = run.passed
        assert passed is not None  # the last item of every pass
        if run.lethal.probe is None:
            for name, size in passed.lowered.items():
                self.lowered[name] = min(size, self.lowered.get(name, size))
        return passed.fault is None

    def _committed(self, run: _ShardRun) -> bool:
        """Commit what a pass computed; whether nothing is left to do in the shard."""
        passed, lake, graph = run.passed, self.work.lake, self.work.graph
        assert passed is not None  # the last item of every pass
        planner = self.planner = Planner(lake, graph, earlier=self.planner)
        for stage in self.work.stages:
            if passed.row_ids.get(stage.name) and self._commit(planner, stage, run, passed):
                self._learn(run, stage.name, passed)
        self.pool.tell(run.shard, "release", passed.token)
        if passed.fault is not None:
            raise StageFault(passed.fault)
        probing = run.lethal.probe is not None
        run.lethal.survived()
        if probing or any(passed.row_ids.values()):
            return not run.condemned and not self._is_due(run)
        if run.condemned:
            self._quarantine_condemned(run)
            return False  # what follows of those rows is computed now
        return True

    def _is_due(self, run: _ShardRun) -> bool:
        """Whether a shard may have rows that can be computed now: another pass is due."""
        self.planner = Planner(self.work.lake, self.work.graph, earlier=self.planner)
        table = self.planner.table(self.work.stages[0].table, run.shard)
        return any(run.wished[name] or table.stages[name].ready.any() for name in self.names)

    def _learn(self, run: _ShardRun, name: str, passed: Passed) -> None:
        """A stage's rows are in the lake."""
        rows, result = passed.row_ids[name], run.results[name]
        result.computed += len(rows)
        result.seconds += passed.seconds.get(name, 0.0)
        result.model_seconds += passed.model_seconds.get(name, 0.0)
        result.device_use = passed.use.told()
        run.wished[name] -= rows
        self.computed[name] += len(rows)

    def _commit(self, planner: Planner, stage: RowStage, run: _ShardRun, passed: Passed) -> bool:
        """Commit a stage's rows; False when they have to be computed again, for who computed them is gone."""
        staged = passed.staged[stage.name]
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                commit_staged(planner, stage, run.shard, staged)
                return True
            except CommitConflict:
                time.sleep(0.05 * (attempt + 1))
            try:
                staged = self.pool.ask(run.shard, "merge_again", passed.token, stage.name)
            except ActorGone as error:
                self.work.report(f"{stage.name} {run.shard}: computed again, its process is gone: {error}")
                return False
        raise contested(stage.name, run.shard)

    def _lost(self, run: _ShardRun, event: Lost) -> None:
        """A process died: what it had not handed over is computed again."""
        self.losses += 1
        latest = run.latest
        self.work.report(
            f"{'+'.join(self.names)} {run.shard}: its process was lost ({event.why}); what it had not handed "
            "over is computed again"
        )
        if self.losses >= LOSSES:
            raise StageFault(f"{'+'.join(self.names)}: {LOSSES} processes were lost in this run: {event.why}")
        if not event.blame:
            return
        if isinstance(latest, Loading):
            self.deaths_loading += 1
            if self.deaths_loading >= LOADING_DEATHS and run.lethal.is_careful:
                raise StageFault(
                    f"{latest.stage}: {LOADING_DEATHS} processes died while loading its model: {event.why}"
                )
            run.lethal.is_careful = True
            return
        known = len(run.lethal.condemned)
        stage = latest.stage if latest else self.names[-1]
        run.lethal.died(stage, latest.row_ids if latest else ())
        if run.lethal.is_hopeless:
            raise StageFault(
                f"{'+'.join(self.names)} {run.shard}: processes keep dying, always at other rows: {event.why}"
            )
        for name, row in run.lethal.condemned[known:]:
            self._condemn(run, name, row)

    def _condemn(self, run: _ShardRun, name: str, row: int) -> None:
        """Quarantine a row that kills, once it is certain that not every row of its stage does."""
        run.condemned.append((name, row))
        if self.computed[name]:
            self._quarantine_condemned(run)
            return
        self.lethal[name] += 1
        if self.lethal[name] >= LETHAL_ROWS:
            raise StageFault(
                f"{name}: the first {LETHAL_ROWS} rows that were computed alone all killed their process, so "
                "the code or its set-up is at fault. No row was quarantined; mend it and run again."
            )

    def _quarantine_condemned(self, run: _ShardRun) -> None:
        stages = {stage.name: stage for stage in self.work.stages}
        for name, row in run.condemned:
            quarantine_killer(self.work.lake, self.work.graph, stages[name], run.shard, row)
            run.results[name].computed += 1
            run.wished[name].discard(row)
            self.work.report(f"{name} {run.shard}: a row kills the process computing it; it is quarantined")
        run.condemned.clear()

    def _finished(self, run: _ShardRun) -> dict[str, ShardResult]:
        planner = self.planner = Planner(self.work.lake, self.work.graph, earlier=self.planner)
        for stage in self.work.stages:
            account(planner, stage, run.shard, run.results[stage.name], self.work.report)
        return run.results


def quarantine_killer(lake: Lake, graph: StageGraph, stage: RowStage, shard: str, row: int) -> None:
    """Commit that a row's process died of it, for today's inputs."""
    planner = Planner(lake, graph)
    table = planner.table(stage.table, shard)
    rows = table.stages[stage.name]
    for place in np.flatnonzero(table.row_ids == row).tolist():
        fingerprint = rows.expected[place].as_py()
        again = rows.stored[place].as_py() == fingerprint
        attempt = (rows.attempt[place].as_py() or 0) + 1 if again else 1
        outcome = RowError(Reason.PROCESS_DIED, "the process died of it, and again with this row alone")
        done = ComputedRow(fingerprint, outcome, quarantine_digest(outcome.reason.value), attempt)
        commit_rows(planner, stage, shard, {row: done})


def _environment() -> Mapping[str, str]:
    """Variables that decide how stages compute, and so must be the same in the actors."""
    prefix = "ORCHARD_"
    names = (name for name in os.environ if name.startswith(prefix))
    return {name: os.environ[name] for name in names if not name[len(prefix) :].startswith(OWN_VARIABLES)}
