from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from resources.lake.commit import commit_group
from resources.lake.errors import CommitConflict, CommitRefused, LakeError
from resources.lake.table import LakeTable, split_addresses

FIELDS = [
    pa.field("score", pa.float32()),
    pa.field("points", pa.list_(pa.float32(), 4)),
    pa.field("score_state", pa.struct([pa.field("digest", pa.binary(16)), pa.field("status", pa.string())])),
]


def group(count: int, first: float = 0.0) -> pa.Table:
    states = [{"digest": bytes([index] * 16), "status": "ok"} for index in range(count)]
    return pa.table(
        {
            "score": pa.array([first + index for index in range(count)], pa.float32()),
            "points": pa.array([[index] * 4 for index in range(count)], pa.list_(pa.float32(), 4)),
            "score_state": pa.array(states, FIELDS[2].type),
        },
        schema=pa.schema(FIELDS),
    )


@pytest.fixture
def table(tmp_path: Path) -> LakeTable:
    table = LakeTable(str(tmp_path / "t.lance"), "key")
    schema = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("shard", pa.string())])
    table.create(schema)
    for shard in ("a", "b"):
        rows = [{"key": f"{shard}{index}", "shard": shard} for index in range(5)]
        table.append(pa.Table.from_pylist(rows, schema=schema))
    table.ensure_columns(FIELDS)
    return table


def values(table: LakeTable) -> dict[str, float | None]:
    return {row["key"]: row["score"] for row in table.snapshot().scan(["key", "score"]).to_pylist()}


def test_a_group_lands_in_its_fragment_only(table: LakeTable) -> None:
    snapshot = table.snapshot()
    commit_group(snapshot, 1, group(5, first=10))
    assert values(table) == {f"a{i}": None for i in range(5)} | {f"b{i}": 10.0 + i for i in range(5)}
    row = table.snapshot().find(["b2"], ["points", "score_state"])["b2"]
    assert row["points"] == [2.0] * 4
    assert row["score_state"] == {"digest": b"\x02" * 16, "status": "ok"}
    table.snapshot().dataset.validate()


def test_a_group_can_be_replaced_and_other_columns_stay(table: LakeTable) -> None:
    commit_group(table.snapshot(), 0, group(5))
    commit_group(table.snapshot(), 0, group(5, first=100))
    assert values(table)["a4"] == 104.0
    assert sorted(row["key"] for row in table.snapshot().scan(["key"]).to_pylist())[0] == "a0"


@pytest.mark.parametrize("count", [4, 6])
def test_a_group_of_the_wrong_length_is_refused_and_nothing_changes(table: LakeTable, count: int) -> None:
    version = table.snapshot().version
    with pytest.raises(CommitRefused, match="physical rows"):
        commit_group(table.snapshot(), 0, group(count))
    assert table.snapshot().version == version


def test_a_group_of_the_wrong_type_is_refused(table: LakeTable) -> None:
    wrong = pa.table({"score": pa.array([1.0] * 5, pa.float64())})
    with pytest.raises(CommitRefused, match="column score is float"):
        commit_group(table.snapshot(), 0, wrong)


def test_an_unknown_column_is_refused(table: LakeTable) -> None:
    with pytest.raises(CommitRefused, match="no column other"):
        commit_group(table.snapshot(), 0, pa.table({"other": [1] * 5}))


def test_a_missing_fragment_is_refused(table: LakeTable) -> None:
    with pytest.raises(LakeError, match="no fragment 9"):
        commit_group(table.snapshot(), 9, group(5))


def test_of_two_writers_of_one_group_the_second_gets_a_conflict(table: LakeTable) -> None:
    first, second = table.snapshot(), table.snapshot()
    commit_group(first, 0, group(5))
    with pytest.raises(CommitConflict):
        commit_group(second, 0, group(5, first=50))
    assert values(table)["a0"] == 0.0


def test_writers_of_different_shards_do_not_conflict(table: LakeTable) -> None:
    first, second = table.snapshot(), table.snapshot()
    commit_group(first, 0, group(5))
    commit_group(second, 1, group(5, first=50))
    assert (values(table)["a1"], values(table)["b1"]) == (1.0, 51.0)


def test_deleted_rows_keep_their_place_in_a_fragment(table: LakeTable) -> None:
    table.delete(["a1"])
    snapshot = table.snapshot()
    _, offsets = split_addresses(snapshot.fragment_columns(0, ["key"])["_rowaddr"])
    assert offsets.tolist() == [0, 2, 3, 4]
    commit_group(snapshot, 0, group(5))
    assert {key: value for key, value in values(table).items() if key.startswith("a")} == {
        "a0": 0.0,
        "a2": 2.0,
        "a3": 3.0,
        "a4": 4.0,
    }


def test_a_column_of_another_type_names_the_remedy(table: LakeTable) -> None:
    with pytest.raises(LakeError, match="lake of its own for each profile"):
        table.ensure_columns([pa.field("score", pa.string())])


def test_rows_of_two_shards_are_not_replaced_together(table: LakeTable) -> None:
    both = pa.table({"key": ["a0", "b0"], "shard": ["a", "b"]})
    with pytest.raises(LakeError, match="several shards"):
        table.replace(both)
