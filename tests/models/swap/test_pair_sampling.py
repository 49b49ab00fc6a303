from __future__ import annotations

import itertools
from collections import Counter

import pytest

from models.swap.pair_sampling import KeyedPermutation, PairStream

PHOTOS = {f"w{i:03d}": [f"{i}_{k}" for k in range(1 + i % 3)] for i in range(23)}


@pytest.mark.parametrize("size", [1, 2, 3, 17, 256, 1000])
def test_permutation_is_one(size):
    permutation = KeyedPermutation(size, seed=5)
    assert sorted(permutation[i] for i in range(size)) == list(range(size))
    with pytest.raises(IndexError):
        permutation[size]


def test_permutation_looks_random():
    first = [KeyedPermutation(1000, seed=1)[i] for i in range(1000)]
    assert first != [KeyedPermutation(1000, seed=2)[i] for i in range(1000)]
    ascents = sum(b > a for a, b in itertools.pairwise(first))
    assert 440 < ascents < 560
    assert sum(i == value for i, value in enumerate(first)) < 8


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


def test_shards_partition_the_stream_and_prefixes_agree():
    stream = PairStream(PHOTOS, seed=3)
    whole = list(stream.pairs(100))
    shards = [list(stream.pairs(100, shard=i, shards=3)) for i in range(3)]
    assert sorted((p for part in shards for p in part), key=lambda p: p.index) == whole
    assert list(stream.pairs(40)) == whole[:40]
    with pytest.raises(ValueError, match="shard 3 is not one of 3"):
        next(stream.pairs(shard=3, shards=3))


def test_the_stream_depends_on_names_and_seed_only():
    shuffled = {name: list(reversed(PHOTOS[name])) for name in reversed(list(PHOTOS))}
    assert list(PairStream(shuffled, seed=3).pairs(50)) == list(PairStream(PHOTOS, seed=3).pairs(50))
    assert list(PairStream(PHOTOS, seed=4).pairs(50)) != list(PairStream(PHOTOS, seed=3).pairs(50))


def test_millions_of_people_cost_nothing():
    people = {str(i): ("a",) for i in range(8600)}
    stream = PairStream(people, seed=0)
    assert len(stream) == 8600 * 8599
    drawn = [stream[i] for i in range(0, len(stream), len(stream) // 200)]
    assert len({pair.source_identity for pair in drawn}) > 180


def test_unusable_people_are_errors():
    with pytest.raises(ValueError, match="people without photos: b"):
        PairStream({"a": ["1"], "b": []}, seed=0)
    with pytest.raises(ValueError, match="at least two people"):
        PairStream({"a": ["1"]}, seed=0)
