"""Pair rows: the pinned list of swaps to make, and the rows of tables that are sharded by pair."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from resources.lake.commit import exchange_rows
from resources.lake.errors import CommitConflict, LakeError
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.removals import read_removals
from resources.lake.schema import SWAP_PAIRS_SCHEMA
from resources.lake.table import ROW_ID, LakeTable
from resources.photos.pairs import PairUse, SwapPair

SYNC_ATTEMPTS = 20
"""How often a table of pairs is read again because other writers changed it meanwhile."""


@dataclass(frozen=True)
class PairSync:
    """What was done to a table of pairs."""

    added: int
    removed: int
    kept: int


def shard_name(prefix: str, index: int) -> str:
    """Zero-padded, comma-free partition key, e.g. `shard-00003`."""
    return f"{prefix}-{index:05d}"


def swap_pair_rows(pairs: Iterable[SwapPair]) -> list[dict[str, Any]]:
    """Rows of the pinned list; truth files are read."""
    return [
        {
            "pair_id": f"{pair.source}__{pair.target}",
            "source_image_id": pair.source,
            "target_image_id": pair.target,
            "truth": pair.truth.read_bytes() if pair.truth else None,
            "world": pair.world,
            "use": pair.use,
        }
        for pair in pairs
    ]


def pinned_pairs(lake: Lake, use: PairUse, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of the pinned list for one use, with the named columns, by pair id."""
    table = lake.swap_pairs.snapshot().dataset.to_table(
        columns=[*dict.fromkeys(("pair_id", "use", *columns))]
    )
    rows = [
        {name: row[name] for name in ("pair_id", *columns)} for row in table.to_pylist() if row["use"] == use
    ]
    return sorted(rows, key=lambda row: row["pair_id"])


@works_on_lake
def store_swap_pairs(lake: Lake, rows: Sequence[Mapping[str, Any]]) -> PairSync:
    """Make the pinned list exactly these rows, atomically.

    A row has pair_id, source_image_id, target_image_id and truth, and may have world and use. Equal rows are
    left alone, so that storing the same list twice changes nothing. Pairs with a forgotten photograph are
    left out.
    """
    removals = read_removals(lake)
    ends = ("source_image_id", "target_image_id")
    rows = [
        {"world": None, "use": "evaluation", **row}
        for row in rows
        if not any(removals.has_image(row[end]) for end in ends)
    ]
    return _make_equal(lake.swap_pairs, rows, SWAP_PAIRS_SCHEMA, lambda stored, fresh: [list(fresh)])


def sync_pairs(
    table: LakeTable, pairs: Sequence[Mapping[str, Any]], schema: pa.Schema, shard_size: int, prefix: str
) -> PairSync:
    """Make a pair table hold exactly `pairs`, in one commit: new rows in shards, unwanted rows deleted.

    A pair keeps its row, and so its computed columns, as long as its id and photographs stay the same; a
    changed one is a new row, of which nothing is computed. New rows go where there is room, the first
    shard first.
    """

    def in_shards(kept: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> list[_Rows]:
        used = Counter(row["shard"] for row in kept)
        parts: list[_Rows] = []
        index = start = 0
        while start < len(fresh):
            shard = shard_name(prefix, index)
            room = max(shard_size - used[shard], 0)
            if room:
                parts.append([{**pair, "shard": shard} for pair in fresh[start : start + room]])
            index, start = index + 1, start + room
        return parts

    return _make_equal(table, pairs, schema, in_shards)


_Rows = list[Mapping[str, Any]]


def _make_equal(
    table: LakeTable,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    into_fragments: Callable[[_Rows, _Rows], list[_Rows]],
) -> PairSync:
    """Exchange what differs between the table and `rows` in one commit; look again when another came first.

    `into_fragments` takes the stored rows that stay and the new ones, and gives the new ones fragment by
    fragment.
    """
    names = [field.name for field in schema if field.name != "shard"]
    wanted = {row["pair_id"]: {name: row[name] for name in names} for row in rows}
    done: PairSync | None = None
    for attempt in range(SYNC_ATTEMPTS):
        snapshot = table.snapshot()
        kept: dict[str, Mapping[str, Any]] = {}
        unwanted: list[int] = []
        for row in snapshot.scan(schema.names).to_pylist():
            key = row["pair_id"]
            same = key in wanted and all(row[name] == value for name, value in wanted[key].items())
            if same and key not in kept:
                kept[key] = row
            else:
                unwanted.append(row[ROW_ID])
        fresh: _Rows = [row for key, row in wanted.items() if key not in kept]
        change = PairSync(added=len(fresh), removed=len(unwanted), kept=len(kept))
        if not fresh and not unwanted:
            return done or change
        parts = into_fragments(list(kept.values()), fresh) if fresh else []
        added = [pa.Table.from_pylist(part, schema=schema) for part in parts]
        with contextlib.suppress(CommitConflict):
            version = exchange_rows(snapshot, unwanted, added)
            done = done or change
            if version == snapshot.version + 1:
                return done
        time.sleep(0.05 * (attempt + 1))
    raise LakeError(
        f"other writers kept changing {table.uri} ({SYNC_ATTEMPTS} attempts); run the same command again "
        "when they are done"
    )
