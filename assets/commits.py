"""From computed rows to the lake: merged into the column groups of their fragments, checked, committed.

In one process `commit_rows` does all of it. On a cluster a worker merges and writes the data files
(`stage_rows`), and the driver alone commits them (`commit_staged`): it looks at the newest version whether
their inputs are still those that they were computed from, and Lance refuses them if another writer touched
the same group since they were merged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from assets.batches import to_arrow
from assets.plan_rows import TablePlan
from assets.planner import Planner
from assets.shard_pass import ComputedRow
from assets.stage import RowStage
from resources.lake.commit import WrittenGroup, commit_group, commit_written, write_group
from resources.lake.errors import CommitConflict, LakeError
from resources.lake.failpoints import crash_point
from resources.lake.schema import STATE_TYPE, Status, state_column
from resources.lake.table import Snapshot, split_addresses
from resources.photos.reasons import RowError

COMMIT_ATTEMPTS = 20
"""Conflicts with other writers are retried this often before giving up."""


@dataclass(frozen=True)
class StagedGroup:
    """Computed rows of one stage in one fragment, written and not committed.

    `fingerprints` say, row by row of `row_ids`, what they were computed from.
    """

    stage: str
    written: WrittenGroup
    row_ids: tuple[int, ...]
    fingerprints: tuple[bytes, ...]


def commit_rows(planned: Planner, stage: RowStage, shard: str, done: Mapping[int, ComputedRow]) -> None:
    """Write computed rows at the newest version; rows whose inputs changed meanwhile are left stale.

    Raises LakeError when other writers keep changing the same rows.
    """
    for attempt in range(COMMIT_ATTEMPTS):
        planner = Planner(planned.lake, planned.graph, earlier=planned)
        table = planner.table(stage.table, shard)
        try:
            for fragment, rows in _by_fragment(table, valid_rows(table, stage, done)).items():
                group = _merge_group(table.snapshot, stage, fragment, rows, done)
                crash_point("before_write")
                commit_group(table.snapshot, fragment, group, _properties(stage, shard))
            return
        except CommitConflict:
            time.sleep(0.05 * (attempt + 1))
    raise contested(stage.name, shard)


def stage_rows(table: TablePlan, stage: RowStage, done: Mapping[int, ComputedRow]) -> list[StagedGroup]:
    """Merge computed rows into the column groups of a plan's version and write the data files.

    Rows that are gone at that version are left out. Whether the others' inputs are still the same is for
    `commit_staged` to see: those of a stage whose upstream is written along with it are not in the lake yet.
    """
    staged = []
    for fragment, rows in _by_fragment(table, done).items():
        group = _merge_group(table.snapshot, stage, fragment, rows, done)
        crash_point("before_write")
        written = write_group(table.snapshot, fragment, group)
        fingerprints = tuple(done[row_id].fingerprint for row_id in rows.values())
        staged.append(StagedGroup(stage.name, written, tuple(rows.values()), fingerprints))
    return staged


def commit_staged(planned: Planner, stage: RowStage, shard: str, staged: Sequence[StagedGroup]) -> None:
    """Commit what a worker wrote of one stage and shard.

    Raises CommitConflict when an input of one of the rows changed since, or another writer came first: the
    worker has then to merge anew, without the rows that are no longer valid. Groups before that one stay.
    """
    planner = Planner(planned.lake, planned.graph, earlier=planned)
    table = planner.table(stage.table, shard)
    expected = table.stages[stage.name].expected
    for group in staged:
        places = _places(table, np.array(group.row_ids, np.int64))
        found = expected.take(pa.array(places)).to_pylist()
        if len(places) < len(group.row_ids) or found != list(group.fingerprints):
            raise CommitConflict(f"{stage.name} {shard}: inputs of computed rows changed before their commit")
    for group in staged:
        base = table.snapshot.table.snapshot(group.written.version)
        commit_written(base, group.written, _properties(stage, shard))


def contested(stage: str, shard: str) -> LakeError:
    """What to raise when conflicts do not end."""
    return LakeError(
        f"{stage} {shard}: other writers kept changing the same rows ({COMMIT_ATTEMPTS} attempts); "
        "run the stage again when they are done"
    )


def valid_rows(table: TablePlan, stage: RowStage, done: Mapping[int, ComputedRow]) -> dict[int, ComputedRow]:
    """The computed rows whose inputs are, in this plan, still those that they were computed from."""
    places = _places(table, np.fromiter(done, np.int64))
    expected = table.stages[stage.name].expected.take(pa.array(places)).to_pylist()
    rows = zip(table.row_ids[places].tolist(), expected, strict=True)
    return {row_id: done[row_id] for row_id, fingerprint in rows if fingerprint == done[row_id].fingerprint}


def _places(table: TablePlan, row_ids: np.ndarray) -> np.ndarray:
    """Places in the plan of those of the rows that are in it, in the order of `row_ids`."""
    order = np.argsort(table.row_ids, kind="stable")
    found = np.searchsorted(table.row_ids, row_ids, sorter=order)
    places = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    return places[table.row_ids[places] == row_ids] if len(order) else places


def _by_fragment(table: TablePlan, row_ids: Iterable[int]) -> dict[int, dict[int, int]]:
    """Rows of a plan by fragment and physical offset, fragments in order."""
    places = np.sort(_places(table, np.fromiter(row_ids, np.int64)))
    fragments, offsets = split_addresses(pa.array(table.addresses[places]))
    found: dict[int, dict[int, int]] = {}
    for place, fragment, offset in zip(places.tolist(), fragments.tolist(), offsets.tolist(), strict=True):
        found.setdefault(fragment, {})[offset] = int(table.row_ids[place])
    return dict(sorted(found.items()))


def _properties(stage: RowStage, shard: str) -> dict[str, str]:
    return {"stage": stage.name, "shard": shard}


def _merge_group(
    snapshot: Snapshot,
    stage: RowStage,
    fragment: int,
    rows: Mapping[int, int],
    done: Mapping[int, ComputedRow],
) -> pa.Table:
    """The fragment's column group with computed rows put in, one entry per physical row.

    `rows` are the ids of those rows by physical offset.
    """
    names = [item.name for item in stage.group_fields]
    old = snapshot.fragment_columns(fragment, names)
    _, live_offsets = split_addresses(old["_rowaddr"])
    physical = snapshot.fragment_rows(fragment)
    # position in (old rows ++ new rows) for every physical row; null where a row was deleted
    source = np.full(physical, -1, dtype=np.int64)
    source[live_offsets] = np.arange(old.num_rows)
    for index, offset in enumerate(rows):
        source[offset] = old.num_rows + index
    take = pa.array(np.maximum(source, 0), mask=source < 0)
    new = _outcome_columns(stage, [done[row_id] for row_id in rows.values()])
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
