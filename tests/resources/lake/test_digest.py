from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.lake.digest import (
    OTHER_PARTS,
    RECIPE_BYTES,
    changed_parts,
    combine_fingerprints,
    digest_bytes,
    explain_difference,
    key_ordered_digest,
    key_ordered_shard_digest,
    recipe_prefix,
    row_digest,
    shard_digest,
)
from resources.lake.schema import Column

POINTS = Column("points", pa.list_(pa.float32(), 2), quantum=0.25)


def test_noise_below_the_quantum_does_not_change_a_digest() -> None:
    exact = {"points": np.array([1.0, -3.0], np.float32)}
    noisy = {"points": np.array([1.0 + 1e-4, -3.0 - 1e-4], np.float32)}
    moved = {"points": np.array([1.3, -3.0], np.float32)}
    assert row_digest(exact, [POINTS]) == row_digest(noisy, [POINTS])
    assert row_digest(exact, [POINTS]) != row_digest(moved, [POINTS])


def test_negative_zero_is_zero() -> None:
    assert row_digest({"points": [-0.01, 0.0]}, [POINTS]) == row_digest({"points": [0.0, 0.0]}, [POINTS])


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        row_digest({"points": [np.nan, 0.0]}, [POINTS])


def test_a_float_column_needs_a_quantum() -> None:
    with pytest.raises(ValueError, match="quantum"):
        Column("score", pa.float32())


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_only_equal_parts_have_equal_digests(left: list[bytes], right: list[bytes]) -> None:
    assert (digest_bytes(*left) == digest_bytes(*right)) == (left == right)


def test_a_fingerprint_tells_which_part_changed() -> None:
    base = recipe_prefix("masks", "1", {"size": 8}, "w")
    upstream = [bytes([1]) * 16, bytes([2]) * 16]
    stored = base + b"".join(upstream)
    names = ["faces", "landmarks"]
    changed = {
        "code_version": recipe_prefix("masks", "2", {"size": 8}, "w") + b"".join(upstream),
        "config": recipe_prefix("masks", "1", {"size": 9}, "w") + b"".join(upstream),
        "weights": recipe_prefix("masks", "1", {"size": 8}, "v") + b"".join(upstream),
        "input:faces": base + bytes([9]) * 16 + upstream[1],
        "input:landmarks": base + upstream[0] + bytes([9]) * 16,
    }
    for name, expected in changed.items():
        assert explain_difference(stored, expected, names) == [name]
    assert explain_difference(stored, stored, names) == []
    assert explain_difference(stored, stored + upstream[0], names) == ["inputs_declared"]


def test_fingerprints_of_many_rows_equal_plain_concatenation() -> None:
    prefix = recipe_prefix("iris", "1", {}, "")
    digests = [bytes([value]) * 16 for value in range(3)]
    column = pa.array([*digests, None], pa.binary(16))
    combined = combine_fingerprints(prefix, [column, column]).to_pylist()
    assert combined == [prefix + digest + digest for digest in digests] + [None]
    assert len(prefix) == RECIPE_BYTES


def test_a_shard_digest_does_not_depend_on_row_order() -> None:
    rows = [("b", b"2"), ("a", b"1")]
    assert shard_digest(rows) == shard_digest(reversed(rows))
    assert shard_digest(rows) != shard_digest([("b", b"1"), ("a", b"2")])


@given(st.dictionaries(st.text(max_size=6), st.none() | st.binary(min_size=16, max_size=16), max_size=12))
def test_digests_of_ordered_arrays_are_those_of_single_rows(rows: dict[str, bytes | None]) -> None:
    rows = {key: value for key, value in rows.items() if not any("\ud800" <= c <= "\udfff" for c in key)}
    keys = sorted(rows)
    arrays = pa.array(keys, pa.string()), pa.array([rows[key] for key in keys], pa.binary(16))
    assert key_ordered_shard_digest(*arrays) == shard_digest((key, rows[key] or b"") for key in keys)
    hashed = b"".join(digest_bytes(key.encode(), rows[key] or b"") for key in keys)
    assert key_ordered_digest(*arrays) == hashlib.blake2b(hashed, digest_size=16).digest()


def test_changed_parts_of_arrays_are_those_of_each_row() -> None:
    prefix = recipe_prefix("masks", "1", {"size": 8}, "w")
    older = recipe_prefix("masks", "0", {"size": 8}, "v")
    one, two, three = (bytes([value]) * 16 for value in (1, 2, 3))
    stored = [
        prefix + one + two,  # equal
        older + one + two,  # code and weights
        prefix + one + three,  # second input
        None,  # never computed
        prefix + one,  # fewer inputs were declared
        prefix + one + two + three,  # more were
        prefix + one + two,  # first input has no digest today
    ]
    first = pa.array([one] * 6 + [None], pa.binary(16))
    second = pa.array([two] * 7, pa.binary(16))
    found = changed_parts(pa.array(stored, pa.binary()), prefix, [first, second])
    other = int(OTHER_PARTS)
    assert found.tolist() == [0, 0b101, 0b10000, 0, other | 0b10000, other, 0b1000]
    # a slice that starts inside a buffer, and every row regular
    part = changed_parts(pa.array(stored, pa.binary())[1:3], prefix, [first[1:3], second[1:3]])
    assert part.tolist() == [0b101, 0b10000]
