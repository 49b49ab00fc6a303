"""Reading one shard opens the fragments of that shard alone, whatever happened to the table before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from resources.lake.table import LakeTable, Snapshot

ROWS = 5


@pytest.fixture
def table(tmp_path: Path) -> LakeTable:
    made = LakeTable(str(tmp_path / "photos.lance"), "key")
    fill(made, ["a", "b", "c"])
    return made


def fill(table: LakeTable, shards: list[str]) -> None:
    table.create(rows_of("a", range(0)).schema)
    for shard in shards:
        table.append(rows_of(shard, range(ROWS)))


def rows_of(shard: str, numbers: range, value: int = 0) -> pa.Table:
    keys = [f"{shard}{number}" for number in numbers]
    values = pa.array([value] * len(keys), pa.int64())
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "shard": pa.array([shard] * len(keys), pa.string()),
            "value": values,
        }
    )


def agrees(snapshot: Snapshot, shards: str) -> bool:
    """Whether every shard reads as it does from the whole table."""
    everything = snapshot.dataset.to_table(columns=["key", "shard", "value"]).to_pylist()
    return all(
        sorted((row["key"], row["value"]) for row in everything if row["shard"] == shard)
        == sorted(
            (row["key"], row["value"]) for row in snapshot.scan(["key", "value"], shard=shard).to_pylist()
        )
        for shard in shards
    )


def fragments(snapshot: Snapshot, shard: str) -> list[int]:
    return [fragment.fragment_id for fragment in snapshot.fragments_of(shard)]


def test_each_shard_has_its_own_fragments(table: LakeTable) -> None:
    snapshot = table.snapshot()
    assert [fragments(snapshot, shard) for shard in "abc"] == [[0], [1], [2]]
    assert fragments(snapshot, "unheard of") == []
    assert snapshot.scan(["key"], shard="unheard of").num_rows == 0
    assert agrees(snapshot, "abc")


def replace_one(table: LakeTable) -> None:
    table.replace(rows_of("b", range(2, 3), value=7))


def append_more(table: LakeTable) -> None:
    table.append(rows_of("b", range(ROWS, ROWS + 2)))


def delete_all(table: LakeTable) -> None:
    table.delete([f"b{number}" for number in range(ROWS)])


@pytest.mark.parametrize(
    ("change", "expected"), [(replace_one, [1, 3]), (append_more, [1, 3]), (delete_all, [])]
)
def test_replaced_appended_and_deleted_rows_are_found(
    table: LakeTable, change: Callable[[LakeTable], None], expected: list[int]
) -> None:
    before = table.snapshot()
    assert fragments(before, "b") == [1]
    change(table)
    after = table.snapshot()
    assert fragments(after, "b") == expected
    assert fragments(after, "a") == [0]
    assert agrees(after, "abc")
    assert agrees(before, "abc"), "an older version reads as before"


def test_a_table_made_anew_in_the_same_place_is_looked_at_anew(table: LakeTable) -> None:
    assert fragments(table.snapshot(), "a") == [0]
    shutil.rmtree(table.uri)
    fill(table, ["c", "a"])
    snapshot = table.snapshot()
    assert [fragments(snapshot, shard) for shard in "abc"] == [[1], [], [0]]
    assert agrees(snapshot, "abc")
