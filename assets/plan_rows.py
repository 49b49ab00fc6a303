"""What a plan holds of rows: arrays over a whole table, built chunk by chunk, with no Python object per row.

A plan of 1.5 million rows and a dozen stages has to fit into a laptop's memory. So fingerprints are compared
while they stream past and only the outcome is kept; whoever needs them plans one shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from resources.lake.arrow import compute as pc
from resources.lake.arrow import one_piece
from resources.lake.digest import key_ordered_digest, key_ordered_shard_digest
from resources.lake.schema import DIGEST_BYTES, STATE_TYPE, Status, state_column
from resources.lake.table import ROW_ADDRESS, ROW_ID, Snapshot

STATE_PARTS = ("fingerprint", "digest", "status", "attempt", "reason")
"""Fields of a state column that a plan reads."""


Values: TypeAlias = "pa.Array | pa.ChunkedArray"
"""Values of a chunk, or of all chunks of a table."""


@dataclass(frozen=True)
class Fingerprints:
    """What rows were computed from, and what they would be computed from today (null: not known yet)."""

    stored: Values
    expected: Values


@dataclass(frozen=True)
class StageRows:
    """State of one stage for all rows of a table (or of one shard), as arrays of equal length N.

    `stale`: no result, or one from other inputs than today's. `waiting`: an upstream is itself stale or
    waiting, so the row cannot be computed yet. `pending`: never computed. `changed`: which parts of the
    fingerprint differ, as bits (`resources.lake.digest.changed_parts`).
    """

    digest: Values
    pending: np.ndarray
    quarantined: np.ndarray
    stale: np.ndarray
    waiting: np.ndarray
    upstream_quarantined: np.ndarray
    changed: np.ndarray
    attempt: Values
    reason: Values
    fingerprints: Fingerprints | None = None

    @property
    def ready(self) -> np.ndarray:
        """Rows to compute now: stale, and everything they need is there."""
        return self.stale & ~self.waiting

    @property
    def ok(self) -> np.ndarray:
        """Rows that hold a result of today's inputs."""
        return ~self.stale & ~self.quarantined

    @property
    def stored(self) -> Values:
        """Fingerprints of the rows' results. Raises ValueError in the plan of a whole table."""
        return self._kept().stored

    @property
    def expected(self) -> Values:
        """Fingerprints of today's inputs. Raises ValueError in the plan of a whole table."""
        return self._kept().expected

    def _kept(self) -> Fingerprints:
        if self.fingerprints is None:
            raise ValueError("the plan of a whole table keeps no fingerprints; plan one shard to see them")
        return self.fingerprints


@dataclass(frozen=True)
class TablePlan:
    """All row stages of one table at one pinned version; arrays of length N in storage order."""

    snapshot: Snapshot
    key_values: pa.Array
    shard_codes: np.ndarray
    shard_names: tuple[str, ...]
    row_ids: np.ndarray
    addresses: np.ndarray
    stages: dict[str, StageRows]

    def __len__(self) -> int:
        return len(self.row_ids)

    @cached_property
    def keys(self) -> list[str]:
        """Keys as Python strings; for small plans."""
        return self.key_values.to_pylist()

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each key."""
        return {key: position for position, key in enumerate(self.keys)}

    @cached_property
    def shards(self) -> np.ndarray:
        """Shard of every row, as an object array of shared strings."""
        return np.array([*self.shard_names, None], dtype=object)[self.shard_codes]

    def slice(self, start: int, count: int) -> dict[str, StageRows]:
        """State of `count` rows from `start` on in every stage planned so far."""
        return {name: sliced(rows, start, count) for name, rows in self.stages.items()}

    def positions(self, keys: pa.Array) -> np.ndarray:
        """Position of each of many keys, -1 where there is none."""
        found = pc.index_in(keys, value_set=self.key_values)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)

    def shard_counts(self, rows: np.ndarray) -> dict[str, int]:
        """How many of the chosen rows (bool, N) every shard has; shards without any are left out."""
        counts = np.bincount(self.shard_codes[rows], minlength=len(self.shard_names))
        return {
            name: int(count) for name, count in sorted(zip(self.shard_names, counts, strict=True)) if count
        }

    def shard_digests(self, stage: str) -> dict[str, str]:
        """Data version of every shard: digest over its rows' digests."""
        digests = self._digests(stage).cast(pa.binary())
        if self._shard_order is not None:
            digests = digests.take(self._shard_order)
        return {
            name: key_ordered_shard_digest(keys, digests.slice(start, len(keys)))
            for name, (start, keys) in self._shard_keys.items()
        }

    def digest(self, stage: str) -> bytes:
        """Digest over all rows of one stage: what an artifact made of all of them is made from."""
        if stage not in self._whole_digests:
            keys, digests = self.key_values, self._digests(stage)
            if not self._in_key_order:
                places = pa.array(self._key_order)
                keys, digests = keys.take(places), digests.take(places)
            self._whole_digests[stage] = key_ordered_digest(keys, digests)
        return self._whole_digests[stage]

    @cached_property
    def _whole_digests(self) -> dict[str, bytes]:
        """Digests over all rows that were asked for already."""
        return {}

    @cached_property
    def _shard_order(self) -> pa.Array | None:
        """Positions by shard and, within one, by key; None when the rows are stored like that."""
        order = self._key_order[np.argsort(self.shard_codes[self._key_order], kind="stable")]
        return None if bool((order == np.arange(len(self))).all()) else pa.array(order)

    @cached_property
    def _shard_keys(self) -> dict[str, tuple[int, pa.Array]]:
        """Where every shard starts in that order, and its keys."""
        keys = self.key_values.cast(pa.binary())
        if self._shard_order is not None:
            keys = keys.take(self._shard_order)
        counts = np.bincount(self.shard_codes, minlength=len(self.shard_names)).tolist()
        starts = np.cumsum([0, *counts]).tolist()
        return {
            name: (start, keys.slice(start, count))
            for name, start, count in zip(self.shard_names, starts, counts, strict=False)
        }

    def _digests(self, stage: str) -> pa.Array:
        return whole(self.stages[stage].digest, pa.binary(DIGEST_BYTES))

    @cached_property
    def _key_order(self) -> np.ndarray:
        """Positions in the order of keys."""
        if self._in_key_order:
            return np.arange(len(self))
        return np.asarray(pc.sort_indices(self.key_values)).astype(np.int64)

    @cached_property
    def _in_key_order(self) -> bool:
        """Whether the rows are stored in the order of their keys already, as after a single ingest."""
        keys, count = self.key_values, len(self)
        return count < 2 or bool(pc.all(pc.less_equal(keys.slice(0, count - 1), keys.slice(1))).as_py())


@dataclass
class TableBuilder:
    """Collects a table plan chunk by chunk."""

    snapshot: Snapshot
    keys: list[pa.Array] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    row_ids: list[np.ndarray] = field(default_factory=list)
    addresses: list[np.ndarray] = field(default_factory=list)
    stages: dict[str, list[StageRows]] = field(default_factory=dict)

    def add(self, chunk: pa.Table, stages: dict[str, StageRows]) -> None:
        """Add the rows of one chunk and their state in every stage."""
        self.keys.append(pa.concat_arrays([whole(chunk[self.snapshot.table.key], pa.string())]))
        shards = whole(chunk["shard"], pa.string()).dictionary_encode()
        codes = [self.names.setdefault(name, len(self.names)) for name in shards.dictionary.to_pylist()]
        self.codes.append(np.array(codes, np.int32)[np.asarray(shards.indices)])
        self.row_ids.append(np.asarray(chunk[ROW_ID]).astype(np.int64))
        self.addresses.append(np.asarray(chunk[ROW_ADDRESS]).astype(np.int64))
        for name, rows in stages.items():
            self.stages.setdefault(name, []).append(rows)

    def build(self) -> TablePlan:
        """The plan of all rows added."""
        return TablePlan(
            snapshot=self.snapshot,
            key_values=pa.concat_arrays(self.keys),
            shard_codes=np.concatenate(self.codes),
            shard_names=tuple(self.names),
            row_ids=np.concatenate(self.row_ids),
            addresses=np.concatenate(self.addresses),
            # popping frees the chunks of each stage before the next one's are joined
            stages={name: joined(self.stages.pop(name)) for name in list(self.stages)},
        )


def sliced(rows: StageRows, start: int, count: int) -> StageRows:
    """State of `count` rows from `start` on, without their fingerprints."""
    values: dict[str, Any] = {}
    for item in fields(StageRows):
        value = getattr(rows, item.name)
        if isinstance(value, np.ndarray):
            values[item.name] = value[start : start + count]
        elif not isinstance(value, Fingerprints | None):
            values[item.name] = one_piece(value.slice(start, count))
    return StageRows(**values)


def compact(rows: StageRows) -> StageRows:
    """The same state in memory of its own, without the fingerprints.

    Arrays that Lance handed out keep everything alive that was read with them.
    """
    return replace(
        rows,
        digest=pa.concat_arrays([rows.digest]),
        attempt=pa.concat_arrays([rows.attempt]),
        reason=pa.concat_arrays([rows.reason]),
        fingerprints=None,
    )


def joined(parts: Sequence[StageRows]) -> StageRows:
    """State of consecutive chunks as one; Arrow arrays stay where they are, as chunks of one column."""
    values: dict[str, Any] = {}
    for item in fields(StageRows):
        pieces = [getattr(part, item.name) for part in parts]
        if isinstance(pieces[0], Fingerprints):
            stored, expected = ([getattr(piece, name) for piece in pieces] for name in ("stored", "expected"))
            values[item.name] = Fingerprints(pa.chunked_array(stored), pa.chunked_array(expected))
        elif isinstance(pieces[0], np.ndarray):
            values[item.name] = np.concatenate(pieces)
        elif pieces[0] is not None:
            values[item.name] = pa.chunked_array(pieces)
    return StageRows(**values)


def state_parts(chunk: pa.Table, stage: str) -> dict[str, pa.Array]:
    """A stage's state in a chunk, by part; nulls where the stage has no column yet."""
    column = state_column(stage)
    return {part: whole(chunk[f"{column}.{part}"], STATE_TYPE.field(part).type) for part in STATE_PARTS}


def whole(column: Values, data_type: pa.DataType) -> pa.Array:
    """A column as one array of a type."""
    array = one_piece(column)
    return array if array.type.equals(data_type) else array.cast(data_type)


def is_quarantined(status: pa.Array) -> np.ndarray:
    """Which rows have this status."""
    return equals(status, Status.QUARANTINED.value)


def equals(values: pa.Array, text: str) -> np.ndarray:
    """Which values are this text; a null is not."""
    found = pc.equal(values, text)
    return np.asarray(pc.fill_null(found, False) if values.null_count else found).astype(bool)


def ingested_rows(chunk: pa.Table, stage: str) -> StageRows:
    """The ingest's own rows: never stale, either ok or quarantined."""
    state = state_parts(chunk, stage)
    none = np.zeros(chunk.num_rows, dtype=bool)
    return StageRows(
        digest=state["digest"],
        pending=none,
        quarantined=is_quarantined(state["status"]),
        stale=none,
        waiting=none,
        upstream_quarantined=none,
        changed=np.zeros(chunk.num_rows, np.uint32),
        attempt=state["attempt"],
        reason=state["reason"],
        fingerprints=Fingerprints(state["fingerprint"], state["fingerprint"]),
    )


def broadcast(digest: bytes | None, blocked: bool, count: int) -> StageRows:
    """An artifact as upstream of rows: one digest for all of them."""
    none = np.zeros(count, dtype=bool)
    return StageRows(
        digest=pa.repeat(pa.scalar(digest, pa.binary(DIGEST_BYTES)), count),
        pending=none,
        quarantined=none,
        stale=none,
        waiting=np.full(count, blocked),
        upstream_quarantined=none,
        changed=np.zeros(count, np.uint32),
        attempt=pa.nulls(count, pa.int16()),
        reason=pa.nulls(count, pa.string()),
    )


def taken(rows: StageRows, places: np.ndarray) -> StageRows:
    """Rows at `places`; a place of -1 is a photograph that is gone: its dependants wait for a release."""
    gone = places < 0
    safe = np.where(gone, 0, places)
    indices = pa.array(safe, mask=gone)

    def pick(values: np.ndarray) -> np.ndarray:
        return (
            np.where(gone, 0, values[safe]).astype(values.dtype)
            if len(values)
            else np.zeros(len(places), values.dtype)
        )

    return StageRows(
        digest=whole(rows.digest.take(indices), pa.binary(DIGEST_BYTES)),
        pending=pick(rows.pending) | gone,
        quarantined=pick(rows.quarantined),
        stale=pick(rows.stale),
        waiting=pick(rows.waiting) | gone,
        upstream_quarantined=pick(rows.upstream_quarantined),
        changed=pick(rows.changed),
        attempt=whole(rows.attempt.take(indices), pa.int16()),
        reason=whole(rows.reason.take(indices), pa.string()),
    )
