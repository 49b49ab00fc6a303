"""The stage runner that all row stages share: read the stale rows of a shard, compute, commit.

Work is committed at least every `COMMIT_SECONDS`, values and state in one commit per fragment. A kill at
any instant leaves either the old rows or the new ones; a rerun computes only what is still stale.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from assets.batches import StageFault, to_arrow
from assets.plan_rows import TablePlan
from assets.planner import Planner, Retry
from assets.shard_pass import ComputedRow, ShardPass
from assets.stage import ArtifactStage, RowModel, RowStage, StageContext, StageGraph
from resources.compute.device import choose_device
from resources.compute.local import close, once_per_process
from resources.lake.commit import commit_group
from resources.lake.errors import CommitConflict, LakeError
from resources.lake.failpoints import crash_point
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import FACES_STAGE, STATE_TYPE, Status, state_column
from resources.lake.table import Snapshot, split_addresses
from resources.photos.reasons import RowError

COMMIT_SECONDS = 60.0
"""Work done since the last commit never exceeds this by more than one batch."""

COMMIT_ATTEMPTS = 20
"""Conflicts with other writers are retried this often before giving up."""


@dataclass
class ShardResult:
    """What one run of one stage over one shard did."""

    stage: str
    shard: str
    rows: int = 0
    computed: int = 0
    ok: int = 0
    quarantined: int = 0
    pending: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    seconds: float = 0.0

    def accounts(self) -> bool:
        """Whether every row is in exactly one of ok, quarantined, pending."""
        return self.ok + self.quarantined + self.pending == self.rows


def run_shard(
    lake: Lake,
    graph: StageGraph,
    stage: RowStage,
    shard: str,
    *,
    device: str = "auto",
    force: bool = False,
    retry: Retry | None = None,
    report: Callable[[str], None] = print,
    on_rows: Callable[[int], None] = lambda count: None,
    earlier: Planner | None = None,
) -> ShardResult:
    """Compute the stale rows of one shard of one stage: `run_shard_stages` of that stage alone."""
    results = run_shard_stages(
        lake,
        graph,
        [stage],
        shard,
        device=device,
        force=force,
        retry=retry,
        report=report,
        on_rows=lambda name, count: on_rows(count),
        earlier=earlier,
    )
    return results[stage.name]


@works_on_lake
def run_shard_stages(
    lake: Lake,
    graph: StageGraph,
    stages: Sequence[RowStage],
    shard: str,
    *,
    device: str = "auto",
    force: bool = False,
    retry: Retry | None = None,
    report: Callable[[str], None] = print,
    on_rows: Callable[[str, int], None] = lambda stage, count: None,
    earlier: Planner | None = None,
) -> dict[str, ShardResult]:
    """Compute the stale rows of one shard in some stages together; nothing stale means nothing computed.

    `stages` are one of the groups of `fused_groups`, upstream first: they share the decoded photographs and
    hand each other their results. `force` computes every row once, `retry` the named quarantined rows besides
    the stale ones. `report` receives sentences for people, `on_rows` a stage and the number of rows it just
    computed. What an `earlier` planner read of tables that have not changed since is not read again.

    Raises StageFault when the code, not a row, is at fault, and LakeError when the lake is.
    """
    results = {stage.name: ShardResult(stage.name, shard) for stage in stages}
    wished: dict[str, set[int]] | None = None
    while True:
        planner = earlier = Planner(lake, graph, earlier=earlier)
        if wished is None:
            table = planner.table(stages[0].table, shard)
            wished = {stage.name: _wished(table, stage, force, retry) for stage in stages}
        work = ShardPass(
            planner,
            stages,
            shard,
            wished,
            model_of=lambda stage: load_model(lake, graph, stage, device, report),
            on_rows=on_rows,
        )
        try:
            work.run(COMMIT_SECONDS)
        except StageFault:
            # the other stages are not at fault: what they computed stays
            _commit_all(planner, [stage for stage in stages if stage.name != work.running], shard, work)
            raise
        _commit_all(planner, stages, shard, work)
        for stage in stages:
            done = work.done[stage.name]
            results[stage.name].computed += len(done)
            results[stage.name].seconds += work.seconds[stage.name]
            wished[stage.name] -= done.keys()
        if not any(work.done.values()):
            break
    for stage in stages:
        result = results[stage.name]
        _account(planner, stage, shard, result)
        if result.pending:
            report(f"{stage.name} {shard}: {result.pending} rows wait for an upstream stage; run that first")
    return results


def _wished(table: TablePlan, stage: RowStage, force: bool, retry: Retry | None) -> set[int]:
    """Ids of the rows that are to be computed once though they are fresh."""
    if force:
        return set(table.row_ids.tolist())
    if retry is None:
        return set()
    rows = table.stages[stage.name]
    return set(table.row_ids[retry.rows(rows.quarantined, rows.reason)].tolist())


def _commit_all(planner: Planner, stages: Sequence[RowStage], shard: str, work: ShardPass) -> None:
    """Write the results of every stage, upstream first: a kill between two leaves the later one stale."""
    for stage in stages:
        started = time.monotonic()
        if work.done[stage.name]:
            _commit(planner, stage, shard, work.done[stage.name])
        work.seconds[stage.name] += time.monotonic() - started


def load_model(
    lake: Lake, graph: StageGraph, stage: RowStage, device: str, report: Callable[[str], None]
) -> RowModel:
    """The stage's model, loaded once per process for each combination of code, config, weights, checkpoints.

    A model of an earlier combination is closed first: two large models would not fit beside each other.
    """
    checkpoints = [
        lake.current_artifact(item.stage)
        for item in stage.inputs
        if item.stage != FACES_STAGE and isinstance(graph[item.stage], ArtifactStage)
    ]
    digests = [artifact.digest.hex() if artifact else "none" for artifact in checkpoints]
    key = ":".join((stage.name, stage.prefix.hex(), device, lake.uri, *digests))
    earlier = _loaded.get(stage.name)
    if earlier is not None and earlier != key:
        close(earlier)

    def build() -> RowModel:
        choice = choose_device(device)
        if stage.weights:
            report(f"{stage.name}: {choice.reason}")
        return stage.load(StageContext(lake, stage.resolve_weights(), choice.device, report))

    model = once_per_process(key, build)
    _loaded[stage.name] = key
    return model


_loaded: dict[str, str] = {}
"""Key of the model that is loaded for each stage in this process."""


def _commit(planned: Planner, stage: RowStage, shard: str, done: Mapping[int, ComputedRow]) -> None:
    """Write computed rows at the newest version; rows whose inputs changed meanwhile are left stale."""
    for attempt in range(COMMIT_ATTEMPTS):
        planner = Planner(planned.lake, planned.graph, earlier=planned)
        table = planner.table(stage.table, shard)
        expected = table.stages[stage.name].expected
        fragments, offsets = split_addresses(pa.array(table.addresses))
        valid: dict[int, dict[int, ComputedRow]] = {}
        places = np.flatnonzero(np.isin(table.row_ids, np.fromiter(done, np.int64)))
        for place, fingerprint in zip(places, expected.take(pa.array(places)).to_pylist(), strict=True):
            computed = done[int(table.row_ids[place])]
            if fingerprint == computed.fingerprint:
                valid.setdefault(int(fragments[place]), {})[int(offsets[place])] = computed
        try:
            for fragment, by_offset in sorted(valid.items()):
                group = _merge_group(table.snapshot, stage, fragment, by_offset)
                crash_point("before_write")
                commit_group(table.snapshot, fragment, group, {"stage": stage.name, "shard": shard})
            return
        except CommitConflict:
            time.sleep(0.05 * (attempt + 1))
    raise LakeError(
        f"{stage.name} {shard}: other writers kept changing the same rows ({COMMIT_ATTEMPTS} attempts); "
        "run the stage again when they are done"
    )


def _merge_group(
    snapshot: Snapshot, stage: RowStage, fragment: int, computed: Mapping[int, ComputedRow]
) -> pa.Table:
    """The fragment's column group with the computed rows put in, one entry per physical row."""
    names = [item.name for item in stage.group_fields]
    old = snapshot.fragment_columns(fragment, names)
    _, live_offsets = split_addresses(old["_rowaddr"])
    physical = snapshot.fragment_rows(fragment)
    # position in (old rows ++ new rows) for every physical row; null where a row was deleted
    source = np.full(physical, -1, dtype=np.int64)
    source[live_offsets] = np.arange(old.num_rows)
    for index, offset in enumerate(computed):
        source[offset] = old.num_rows + index
    take = pa.array(np.maximum(source, 0), mask=source < 0)
    new = _outcome_columns(stage, list(computed.values()))
    arrays = []
    for item in stage.group_fields:
        both = pa.chunked_array([*old[item.name].chunks, new[item.name]], type=item.type)
        arrays.append(both.combine_chunks().take(take) if physical else both)
    return pa.Table.from_arrays(arrays, schema=pa.schema(stage.group_fields))


def _outcome_columns(stage: RowStage, computed: Sequence[ComputedRow]) -> dict[str, pa.Array]:
    states: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {column.name: [] for column in stage.outputs}
    for item in computed:
        outcome = item.outcome
        state: dict[str, Any] = {
            "fingerprint": item.fingerprint,
            "digest": item.digest,
            "status": Status.OK.value,
            "attempt": item.attempt,
            "code_version": stage.code_version,
            "reason": None,
            "detail": None,
        }
        if isinstance(outcome, RowError):
            state |= {
                "status": Status.QUARANTINED.value,
                "reason": outcome.reason.value,
                "detail": outcome.detail[:500],
            }
        states.append(state)
        for column in stage.outputs:
            values[column.name].append(None if isinstance(outcome, RowError) else outcome[column.name])
    arrays = {column.name: to_arrow(values[column.name], column.type) for column in stage.outputs}
    return arrays | {state_column(stage.name): pa.array(states, STATE_TYPE)}


def _account(planner: Planner, stage: RowStage, shard: str, result: ShardResult) -> None:
    table = planner.table(stage.table, shard)
    rows = table.stages[stage.name]
    quarantined = rows.quarantined & ~rows.stale
    result.rows = len(table.keys)
    result.ok = int(rows.ok.sum())
    result.quarantined = int(quarantined.sum())
    result.pending = int(rows.stale.sum())
    result.reasons = Counter(rows.reason.filter(pa.array(quarantined)).to_pylist())
    result.digest = table.shard_digests(stage.name).get(shard, "")
