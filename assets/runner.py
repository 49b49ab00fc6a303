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

from assets.batches import compute_batch, read_inputs
from assets.planner import Planner, Retry, StageRows, TablePlan
from assets.stage import ArtifactStage, RowModel, RowOutcome, RowStage, StageContext, StageGraph
from resources.compute.device import choose_device
from resources.compute.local import close, once_per_process
from resources.lake.commit import commit_group
from resources.lake.digest import quarantine_digest, row_digest
from resources.lake.errors import CommitConflict, LakeError
from resources.lake.failpoints import crash_point
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import FACES_STAGE, STATE_TYPE, Status, state_column
from resources.lake.table import Snapshot, split_addresses
from resources.photos.reasons import Reason, RowError

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


@dataclass(frozen=True)
class _Computed:
    """A computed row waiting for its commit: it is valid only for this fingerprint."""

    fingerprint: bytes
    outcome: RowOutcome
    attempt: int


@works_on_lake
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
    """Compute the stale rows of one shard of one stage; nothing stale means nothing computed.

    `force` computes every row once, `retry` the named quarantined rows besides the stale ones. `report`
    receives sentences for people, `on_rows` the number of rows just computed. What an `earlier` planner read
    of tables that have not changed since is not read again.

    Raises StageFault when the code, not a row, is at fault, and LakeError when the lake is.
    """
    started = time.monotonic()
    result = ShardResult(stage.name, shard)
    forced_left: set[int] | None = None
    while True:
        retried = {stage.name: retry} if retry else {}
        forced = [stage.name] if force else []
        planner = earlier = Planner(lake, graph, forced, retried, earlier)
        table = planner.table(stage.table, shard)
        rows = table.stages[stage.name]
        ready = rows.ready
        if force or retry:
            if forced_left is None:
                forced_left = set(table.row_ids[ready].tolist())
            ready = ready & np.isin(table.row_ids, list(forced_left))
        positions = np.flatnonzero(ready)
        if not len(positions):
            break
        done = _compute(planner, stage, table, rows, positions, device, report, on_rows)
        _commit(planner, stage, shard, done)
        result.computed += len(done)
        if forced_left is not None:
            forced_left -= done.keys()
    _account(Planner(lake, graph, earlier=earlier), stage, shard, result)
    result.seconds = time.monotonic() - started
    if result.pending:
        report(f"{stage.name} {shard}: {result.pending} rows wait for an upstream stage; run that first")
    return result


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


def _compute(
    planner: Planner,
    stage: RowStage,
    table: TablePlan,
    rows: StageRows,
    positions: np.ndarray,
    device: str,
    report: Callable[[str], None],
    on_rows: Callable[[int], None],
) -> dict[int, _Computed]:
    """Compute rows until they run out or a commit is due. Keys are row ids."""
    deadline = time.monotonic() + COMMIT_SECONDS
    done: dict[int, _Computed] = {}
    failures: list[RowError | None] = []
    for start in range(0, len(positions), stage.batch_size):
        batch = positions[start : start + stage.batch_size]
        blocked = rows.upstream_quarantined[batch]
        outcomes: dict[int, RowOutcome] = {
            int(position): RowError(Reason.UPSTREAM, "an input of this row is quarantined")
            for position in batch[blocked]
        }
        open_positions = batch[~blocked]
        if len(open_positions):
            model = load_model(planner.lake, planner.graph, stage, device, report)
            inputs = read_inputs(planner, stage, table, open_positions)
            computed = compute_batch(stage, model, inputs, failures)
            outcomes |= dict(zip(open_positions.tolist(), computed, strict=True))
        for position, outcome in outcomes.items():
            expected = rows.expected[position].as_py()
            previous = rows.attempt[position].as_py() or 0
            same_inputs = rows.stored[position].as_py() == expected
            done[int(table.row_ids[position])] = _Computed(
                expected, outcome, previous + 1 if same_inputs else 1
            )
        on_rows(len(batch))
        if time.monotonic() > deadline:
            break
    return done


def _commit(planned: Planner, stage: RowStage, shard: str, done: Mapping[int, _Computed]) -> None:
    """Write computed rows at the newest version; rows whose inputs changed meanwhile are left stale."""
    for attempt in range(COMMIT_ATTEMPTS):
        planner = Planner(planned.lake, planned.graph, earlier=planned)
        table = planner.table(stage.table, shard)
        expected = table.stages[stage.name].expected
        fragments, offsets = split_addresses(pa.array(table.addresses))
        valid: dict[int, dict[int, _Computed]] = {}
        for position, row_id in enumerate(table.row_ids.tolist()):
            computed = done.get(row_id)
            if computed is not None and expected[position].as_py() == computed.fingerprint:
                valid.setdefault(int(fragments[position]), {})[int(offsets[position])] = computed
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
    snapshot: Snapshot, stage: RowStage, fragment: int, computed: Mapping[int, _Computed]
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


def _outcome_columns(stage: RowStage, computed: Sequence[_Computed]) -> dict[str, pa.Array]:
    states: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {column.name: [] for column in stage.outputs}
    for item in computed:
        outcome = item.outcome
        state: dict[str, Any] = {
            "fingerprint": item.fingerprint,
            "attempt": item.attempt,
            "code_version": stage.code_version,
            "reason": None,
            "detail": None,
        }
        if isinstance(outcome, RowError):
            state |= {
                "digest": quarantine_digest(outcome.reason.value),
                "status": Status.QUARANTINED.value,
                "reason": outcome.reason.value,
                "detail": outcome.detail[:500],
            }
        else:
            state |= {"digest": row_digest(outcome, stage.outputs), "status": Status.OK.value}
        states.append(state)
        for column in stage.outputs:
            values[column.name].append(None if isinstance(outcome, RowError) else outcome[column.name])
    arrays = {column.name: to_arrow(values[column.name], column.type) for column in stage.outputs}
    return arrays | {state_column(stage.name): pa.array(states, STATE_TYPE)}


def to_arrow(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """Python or numpy values as an Arrow array; fixed-size lists take flat or shaped numpy arrays."""
    if pa.types.is_fixed_size_list(data_type):
        dtype = data_type.value_type.to_pandas_dtype()
        flat = [None if value is None else np.asarray(value, dtype=dtype).ravel() for value in values]
        return pa.array(flat, data_type)
    return pa.array(list(values), data_type)


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
