from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from models.swap.pair_sampling import LARGEST_PERMUTATION, KeyedPermutation, PairStream, PairTable

PHOTOS = {f"w{i:03d}": [f"{i}_{k}" for k in range(1 + i % 3)] for i in range(23)}

VGG_PEOPLE = 8631
PAIRS = 100_000


def columns(table: PairTable) -> list[np.ndarray]:
    return [
        table.index,
        table.source_identity,
        table.source_photo,
        table.target_identity,
        table.target_photo,
    ]


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4096, 65_537])
def test_permutation_is_one(size):
    permutation = KeyedPermutation(size, seed=5)
    moved = permutation.at(np.arange(size))
    np.testing.assert_array_equal(np.sort(moved), np.arange(size))
    for position in range(0, size, max(1, size // 50)):
        assert permutation[position] == moved[position]
    for outside in (-1, size):
        with pytest.raises(IndexError, match=f"position {outside} is outside"):
            permutation.at([0, outside])


@pytest.mark.parametrize("size", [0, -3, LARGEST_PERMUTATION + 1])
def test_sizes_that_cannot_be_permuted_are_errors(size):
    with pytest.raises(ValueError, match="a permutation needs a size of 1 to"):
        KeyedPermutation(size, seed=0)


def test_the_largest_permutation_stays_in_range_without_repeats():
    moved = KeyedPermutation(LARGEST_PERMUTATION, seed=1).at(np.arange(LARGEST_PERMUTATION - 3000, 2**62))
    assert len(np.unique(moved)) == 3000
    assert moved.min() >= 0
    assert moved.max() < LARGEST_PERMUTATION


def test_every_number_goes_to_every_place_equally_often():
    size, seeds = 12, 2400
    found = np.zeros((size, size))
    for seed in range(seeds):
        found[np.arange(size), KeyedPermutation(size, seed).at(np.arange(size))] += 1
    expected, freedom = seeds / size, (size - 1) ** 2
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_permutation_looks_random():
    first = KeyedPermutation(1000, seed=1).at(np.arange(1000))
    assert (first != KeyedPermutation(1000, seed=2).at(np.arange(1000))).any()
    assert 440 < int((np.diff(first) > 0).sum()) < 560
    assert int((first == np.arange(1000)).sum()) < 8


def test_every_ordered_pair_once_and_never_the_same_person():
    stream = PairStream(PHOTOS, seed=3)
    pairs = list(stream.pairs())
    assert len(pairs) == len(stream) == 23 * 22
    named = {(pair.source_identity, pair.target_identity) for pair in pairs}
    assert named == set(itertools.permutations(PHOTOS, 2))
    for pair in pairs:
        assert pair.source_photo in PHOTOS[pair.source_identity]
        assert pair.target_photo in PHOTOS[pair.target_identity]
    used = Counter(pair.source_photo for pair in pairs if pair.source_identity == "w002")
    assert set(used) == set(PHOTOS["w002"])


def test_three_people_by_hand():
    pairs = PairStream({"a": ["a1"], "b": ["b1"], "c": ["c1"]}, seed=9).pairs()
    assert sorted((pair.source_photo, pair.target_photo) for pair in pairs) == [
        ("a1", "b1"),
        ("a1", "c1"),
        ("b1", "a1"),
        ("b1", "c1"),
        ("c1", "a1"),
        ("c1", "b1"),
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 150])
def test_shards_partition_the_stream_and_prefixes_agree(shards):
    stream = PairStream(PHOTOS, seed=3)
    whole = list(stream.pairs(100))
    parts = [list(stream.pairs(100, shard=i, shards=shards)) for i in range(shards)]
    assert sorted((pair for part in parts for pair in part), key=lambda pair: pair.index) == whole
    tables = [stream.pair_table(100, shard=i, shards=shards) for i in range(shards)]
    assert [list(table.rows()) for table in tables] == parts
    assert list(stream.pairs(40)) == whole[:40]
    assert [stream[index] for index in range(100)] == whole
    with pytest.raises(ValueError, match=f"shard {shards} is not one of {shards}"):
        next(stream.pairs(shard=shards, shards=shards))


def test_the_stream_depends_on_names_and_seed_only():
    shuffled = {name: list(reversed(PHOTOS[name])) for name in reversed(list(PHOTOS))}
    assert list(PairStream(shuffled, seed=3).pairs(50)) == list(PairStream(PHOTOS, seed=3).pairs(50))
    assert list(PairStream(PHOTOS, seed=4).pairs(50)) != list(PairStream(PHOTOS, seed=3).pairs(50))


def test_people_and_photographs_are_drawn_equally_often():
    """Chi-square: each person as source and as target, and each of a person's photographs."""
    photos = {f"n{i:06d}": [f"{k}" for k in range(5)] for i in range(VGG_PEOPLE)}
    table = PairStream(photos, seed=42).pair_table(PAIRS)
    assert not (table.source_identity == table.target_identity).any()
    for column, choices in (
        (table.source_identity, VGG_PEOPLE),
        (table.target_identity, VGG_PEOPLE),
        (table.source_photo, 5),
        (table.target_photo, 5),
    ):
        counts = np.unique(column.astype(str), return_counts=True)[1]
        counts = np.pad(counts, (0, choices - len(counts)))
        expected, freedom = PAIRS / choices, choices - 1
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)
    together = np.zeros((5, 5))
    np.add.at(together, (table.source_photo.astype(int), table.target_photo.astype(int)), 1)
    assert float(((together - PAIRS / 25) ** 2 / (PAIRS / 25)).sum()) < 24 + 4 * np.sqrt(48)


MEASURED = """
import json, resource, sys, time

from models.swap.pair_sampling import PairStream

people, per_person, count = (int(text) for text in sys.argv[1:])
photos = {f"n{i:06d}": [f"n{i:06d}/{k:04d}_01" for k in range(per_person)] for i in range(people)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
stream = PairStream(photos, seed=42)
whole = stream.pair_table(count)
seconds = time.perf_counter() - started
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
names = list(zip(whole.source_photo, whole.target_photo, whole.source_identity, whole.target_identity))
by_index = dict(zip(whole.index.tolist(), names))
same = []
for shards in (1, 3, 64):
    parts = {}
    for shard in range(shards):
        part = stream.pair_table(count, shard=shard, shards=shards)
        rows = zip(part.source_photo, part.target_photo, part.source_identity, part.target_identity)
        parts.update(zip(part.index.tolist(), rows))
    same.append(parts == by_index)
print(json.dumps({
    "seconds": seconds,
    "growth_mib": growth / 1024,
    "distinct": len({name[2:] for name in names}),
    "same": same,
}))
"""


def test_100_000_pairs_of_8631_people_take_two_seconds_and_little_memory():
    command = [sys.executable, "-c", MEASURED, str(VGG_PEOPLE), "40", str(PAIRS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["seconds"] <= 2.0
    assert measured["growth_mib"] <= 200
    assert measured["distinct"] == PAIRS
    assert measured["same"] == [True, True, True]


def test_unusable_people_are_errors():
    with pytest.raises(ValueError, match="people without photos: b"):
        PairStream({"a": ["1"], "b": []}, seed=0)
    with pytest.raises(ValueError, match="at least two people"):
        PairStream({"a": ["1"]}, seed=0)
