"""Tables of pairs: what a sync keeps, what it makes anew, and that it is one commit among other writers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from resources.lake.commit import commit_group, exchange_rows
from resources.lake.errors import CommitConflict
from resources.lake.lake import Lake
from resources.lake.pairs import PairSync, store_swap_pairs, sync_pairs
from resources.lake.schema import TRIPLETS_SCHEMA
from resources.lake.table import LakeTable

SHARD_SIZE = 3


def pair(number: int, target: str = "b/0") -> dict[str, str]:
    return {"pair_id": f"pair {number}", "source_image_id": f"a/{number}", "target_image_id": target}


def sync(lake: Lake, pairs: list[dict[str, str]]) -> PairSync:
    return sync_pairs(lake.triplets, pairs, TRIPLETS_SCHEMA, SHARD_SIZE, "triplets")


def state(table: LakeTable, *columns: str) -> dict[str, tuple]:
    rows = table.snapshot().scan(["pair_id", "shard", *columns]).to_pylist()
    assert len({row["pair_id"] for row in rows}) == len(rows)
    return {row["pair_id"]: tuple(row[name] for name in ("shard", *columns, "_rowid")) for row in rows}


def shards_of_fragments(table: LakeTable) -> list[set[str]]:
    fragments = table.snapshot().dataset.get_fragments()
    return [set(item.to_table(columns=["shard"])["shard"].to_pylist()) for item in fragments]


def compute(table: LakeTable) -> None:
    """Give every pair a score, as a stage would."""
    table.ensure_columns([pa.field("score", pa.int32())])
    for fragment in table.snapshot().dataset.get_fragments():
        scores = pa.table({"score": pa.array(range(fragment.physical_rows), pa.int32())})
        commit_group(table.snapshot(), fragment.fragment_id, scores)


def test_pairs_of_several_shards_come_and_go_in_one_commit(lake: Lake) -> None:
    before = lake.triplets.snapshot().version
    assert sync(lake, [pair(number) for number in range(8)]) == PairSync(added=8, removed=0, kept=0)
    assert lake.triplets.snapshot().version == before + 1
    assert sorted(map(sorted, shards_of_fragments(lake.triplets))) == [
        ["triplets-00000"],
        ["triplets-00001"],
        ["triplets-00002"],
    ]
    compute(lake.triplets)
    old, version = state(lake.triplets, "score"), lake.triplets.snapshot().version
    # 0 and 6 go, 4 changes, 8 and 9 are new
    wanted = [pair(number) for number in (1, 2, 3, 5, 7, 8, 9)] + [pair(4, "c/9")]
    assert sync(lake, wanted) == PairSync(added=3, removed=3, kept=5)
    assert lake.triplets.snapshot().version == version + 1
    new = state(lake.triplets, "score")
    kept = [f"pair {number}" for number in (1, 2, 3, 5, 7)]
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
    fresh = {key: row for key, row in new.items() if key not in kept}
    assert {key: row[:2] for key, row in fresh.items()} == {
        "pair 8": ("triplets-00000", None),
        "pair 9": ("triplets-00001", None),
        "pair 4": ("triplets-00002", None),
    }
    assert not {row[2] for row in fresh.values()} & {row[2] for row in old.values()}
    assert all(len(shards) == 1 for shards in shards_of_fragments(lake.triplets))
    lake.triplets.snapshot().dataset.validate()


def test_the_same_pairs_again_change_nothing(lake: Lake) -> None:
    pairs = [pair(number) for number in range(4)]
    sync(lake, pairs)
    version = lake.triplets.snapshot().version
    assert sync(lake, pairs[::-1]) == PairSync(added=0, removed=0, kept=4)
    assert lake.triplets.snapshot().version == version


def test_no_pairs_empty_the_table_in_one_commit(lake: Lake) -> None:
    sync(lake, [pair(number) for number in range(8)])
    version = lake.triplets.snapshot().version
    assert sync(lake, []) == PairSync(added=0, removed=8, kept=0)
    assert lake.triplets.snapshot().version == version + 1
    assert state(lake.triplets) == {}


def test_a_changed_answer_is_exchanged_in_one_commit(lake: Lake) -> None:
    rows = [{**pair(number), "truth": b"first"} for number in range(3)]
    store_swap_pairs(lake, rows)
    version = lake.swap_pairs.snapshot().version
    rows[1]["truth"] = b"second"
    assert store_swap_pairs(lake, rows) == PairSync(added=1, removed=1, kept=2)
    snapshot = lake.swap_pairs.snapshot()
    assert snapshot.version == version + 1
    stored = {row["pair_id"]: row["truth"] for row in snapshot.dataset.to_table().to_pylist()}
    assert stored == {"pair 0": b"first", "pair 1": b"second", "pair 2": b"first"}


def test_a_row_that_is_there_twice_becomes_one(lake: Lake) -> None:
    pairs = [pair(number) for number in range(2)]
    sync(lake, pairs)
    row = {**pair(1), "shard": "triplets-00000"}
    lake.triplets.append(pa.Table.from_pylist([row], schema=TRIPLETS_SCHEMA))
    assert sync(lake, pairs) == PairSync(added=0, removed=1, kept=2)
    assert state(lake.triplets).keys() == {"pair 0", "pair 1"}


def test_of_two_exchanges_of_one_state_the_second_is_refused(lake: Lake) -> None:
    sync(lake, [pair(0)])
    snapshot = lake.triplets.snapshot()
    rows = pa.Table.from_pylist([{**pair(1), "shard": "triplets-00000"}], schema=TRIPLETS_SCHEMA)
    exchange_rows(snapshot, [], [rows])
    with pytest.raises(CommitConflict):
        exchange_rows(snapshot, [], [rows])
    assert state(lake.triplets).keys() == {"pair 0", "pair 1"}


def test_a_result_committed_meanwhile_is_not_lost(lake: Lake) -> None:
    sync(lake, [pair(0), pair(1)])
    snapshot = lake.triplets.snapshot()
    doomed = [state(lake.triplets)["pair 1"][-1]]
    compute(lake.triplets)
    with pytest.raises(CommitConflict):
        exchange_rows(snapshot, doomed, [])
    sync(lake, [pair(0)])
    assert {key: row[1] for key, row in state(lake.triplets, "score").items()} == {"pair 0": 0}


@pytest.mark.parametrize("stored", [0, 2])
def test_pairs_synced_by_four_writers_at_once_are_there_once(lake: Lake, stored: int) -> None:
    pairs = [pair(number) for number in range(8)]
    sync(lake, pairs[:stored])
    gate = threading.Barrier(4)

    def work(_: int) -> None:
        gate.wait(timeout=60)
        sync(lake, pairs)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert state(lake.triplets).keys() == {item["pair_id"] for item in pairs}
    assert all(len(shards) == 1 for shards in shards_of_fragments(lake.triplets))
