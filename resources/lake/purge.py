"""Remove rows of a table so that no byte of them stays stored: not in old versions, not under tags.

Deleting a row in Lance only marks it. Here the fragments that still hold it are written anew, one by one (a
shard is a set of whole fragments and must stay so), row ids kept; then the versions that knew it go.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from lance.optimize import Compaction, CompactionTask

from resources.lake.arrow import compute as pc
from resources.lake.errors import LakeError
from resources.lake.files import (
    open_version,
    stored_versions,
    tagged_versions,
    unreferenced_files,
)
from resources.lake.leases import ensure_held
from resources.lake.storage import Storage
from resources.lake.table import LakeTable

ROWS_PER_FRAGMENT = 1 << 40
"""A rewritten fragment is never split, whatever its length."""


@dataclass
class Purged:
    """What a purge did to one table."""

    rows: int = 0
    fragments: int = 0
    versions: int = 0
    dropped_tags: list[str] = field(default_factory=list)
    bytes: int = 0


def purge_rows(table: LakeTable, columns: Sequence[str], values: Collection[str]) -> Purged:
    """Remove every row that has one of `values` in one of `columns`, from where it is stored too.

    All old versions go, except tagged ones that never held such a row. Safe to repeat after a kill. The
    caller must be alone on the lake.
    """
    done = Purged()
    wanted = pa.array(sorted(values), pa.string())
    doomed = live_keys(table, columns, wanted)
    table.delete(doomed)
    done.rows = len(doomed)
    done.fragments = _rewrite(table, holding_fragments(table, columns, wanted))
    for tag, version in sorted(tagged_versions(table).items()):
        if holding_fragments(table, columns, wanted, version):
            open_version(table).tags.delete(tag)
            done.dropped_tags.append(tag)
    old = untagged_versions(table)
    done.versions = len(old)
    done.bytes = drop_versions(table, old)
    for item in unreferenced_files(table, stored_versions(table)):
        Storage.at(table.uri).remove(item.location)
        done.bytes += item.size
    return done


def live_keys(table: LakeTable, columns: Sequence[str], wanted: pa.Array) -> list[str]:
    """Keys of live rows that have a wanted value in one of the columns."""
    rows = table.snapshot().scan(list(dict.fromkeys([table.key, *columns])))
    return rows[table.key].filter(pa.array(_matches(rows, columns, wanted))).to_pylist()


def holding_fragments(
    table: LakeTable, columns: Sequence[str], wanted: pa.Array, version: int | None = None
) -> list[int]:
    """Fragments of a version whose files hold a wanted row, deleted or not."""
    dataset = open_version(table, version)
    if not set(columns) <= set(dataset.schema.names):
        return []
    found = []
    for fragment in dataset.get_fragments():
        rows = fragment.to_table(columns=list(columns), with_row_id=True, include_deleted_rows=True)
        if _matches(rows, columns, wanted).any():
            found.append(fragment.fragment_id)
    return found


def physical_values(table: LakeTable, columns: Sequence[str], version: int | None = None) -> pa.Table:
    """Columns of all rows that the files of a version hold, deleted ones included."""
    parts = [
        fragment.to_table(columns=list(columns), with_row_id=True, include_deleted_rows=True)
        for fragment in open_version(table, version).get_fragments()
    ]
    empty = pa.table({name: pa.array([], pa.string()) for name in columns})
    return pa.concat_tables(part.select(list(columns)) for part in parts) if parts else empty


def untagged_versions(table: LakeTable) -> list[int]:
    """All versions but the newest and the tagged ones."""
    kept = {open_version(table).version, *tagged_versions(table).values()}
    return sorted(set(stored_versions(table)) - kept)


def drop_versions(table: LakeTable, versions: Sequence[int]) -> int:
    """Remove versions and the files that only they need; returns bytes removed.

    Versions are named, never chosen by their age, so that the clock does not matter.
    """
    if not versions:
        return 0
    ensure_held(table.uri)
    stats = open_version(table).cleanup_old_versions(
        versions=list(versions), error_if_tagged_old_versions=False
    )
    return int(stats.bytes_removed)


def _matches(rows: pa.Table, columns: Sequence[str], wanted: pa.Array) -> np.ndarray:
    found = np.zeros(rows.num_rows, dtype=bool)
    for name in columns:
        found |= np.asarray(pc.is_in(rows[name], value_set=wanted)).astype(bool)
    return found


def _rewrite(table: LakeTable, fragment_ids: Sequence[int]) -> int:
    """Write fragments anew without their deleted rows, each by itself."""
    if not fragment_ids:
        return 0
    dataset = open_version(table)
    options: Any = {
        "materialize_deletions": True,
        "materialize_deletions_threshold": 0.0,
        "target_rows_per_fragment": 1,
    }
    # Lance groups neighbours into one task, which could mix shards: so its plan is taken apart
    tasks: dict[int, CompactionTask] = {}
    task_type: Any = CompactionTask  # its JSON methods are missing from Lance's stubs
    planned: Any
    for planned in Compaction.plan(dataset, options).tasks:
        content = json.loads(planned.json())
        for fragment in content["task"]["fragments"]:
            alone = {**content, "task": {**content["task"], "fragments": [fragment]}}
            alone["options"] = {**content["options"], "target_rows_per_fragment": ROWS_PER_FRAGMENT}
            tasks[int(fragment["id"])] = task_type.from_json(json.dumps(alone))
    missing = sorted(set(fragment_ids) - set(tasks))
    if missing:
        raise LakeError(f"Lance would not rewrite fragments {missing} of {table.uri}; nothing was changed")
    ensure_held(table.uri)
    Compaction.commit(dataset, [tasks[fragment].execute(dataset) for fragment in fragment_ids])
    return len(fragment_ids)
