"""Pair rows: the pinned list of swaps to make, and the rows of tables that are sharded by pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.removals import read_removals
from resources.lake.schema import SWAP_PAIRS_SCHEMA
from resources.lake.table import LakeTable
from resources.photos.pairs import SwapPair


@dataclass(frozen=True)
class PairSync:
    """What `sync_pairs` did to a table."""

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
        }
        for pair in pairs
    ]


@works_on_lake
def store_swap_pairs(lake: Lake, rows: Sequence[Mapping[str, Any]]) -> PairSync:
    """Make the pinned list exactly these rows (pair_id, source_image_id, target_image_id, truth).

    Equal rows are left alone, so that storing the same list twice changes nothing. Pairs with a forgotten
    photograph are left out.
    """
    removals = read_removals(lake)
    ends = ("source_image_id", "target_image_id")
    rows = [row for row in rows if not any(removals.has_image(row[end]) for end in ends)]
    stored = {row["pair_id"]: row for row in lake.swap_pairs.snapshot().dataset.to_table().to_pylist()}
    wanted = {row["pair_id"]: dict(row) for row in rows}
    stale = [key for key, row in stored.items() if wanted.get(key) != row]
    fresh = [row for key, row in wanted.items() if stored.get(key) != row]
    lake.swap_pairs.delete(stale)
    lake.swap_pairs.append(pa.Table.from_pylist(fresh, schema=SWAP_PAIRS_SCHEMA))
    return PairSync(added=len(fresh), removed=len(stale), kept=len(wanted) - len(fresh))


def sync_pairs(
    table: LakeTable, pairs: Sequence[Mapping[str, Any]], schema: pa.Schema, shard_size: int, prefix: str
) -> PairSync:
    """Make a pair table hold exactly `pairs`: new rows appended in shards, unwanted rows deleted.

    A pair keeps its row, and so its computed columns, as long as its id and photographs stay the same.
    """
    snapshot = table.snapshot()
    names = [field.name for field in schema if field.name != "shard"]
    stored = {row["pair_id"]: row for row in snapshot.dataset.to_table(columns=[*names, "shard"]).to_pylist()}
    wanted = {pair["pair_id"]: pair for pair in pairs}

    def same(key: str) -> bool:
        return key in stored and all(stored[key][name] == wanted[key][name] for name in names)

    unwanted = [key for key in stored if key not in wanted or not same(key)]
    missing = [pair for key, pair in wanted.items() if not same(key)]
    table.delete(unwanted)
    counts: dict[str, int] = {}
    for key, row in stored.items():
        if key not in unwanted:
            counts[row["shard"]] = counts.get(row["shard"], 0) + 1
    index = 0
    while missing:
        shard = shard_name(prefix, index)
        room = shard_size - counts.get(shard, 0)
        if room > 0:
            batch, missing = missing[:room], missing[room:]
            rows = [{**{name: pair[name] for name in names}, "shard": shard} for pair in batch]
            table.append(pa.Table.from_pylist(rows, schema=schema))
        index += 1
    return PairSync(
        added=len(wanted) - (len(stored) - len(unwanted)),
        removed=len(unwanted),
        kept=len(stored) - len(unwanted),
    )
