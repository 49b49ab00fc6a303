"""Which photo is swapped onto which: a seeded stream of ordered pairs of people, each pair at most once.

APPLE lists all ordered pairs of people and shuffles the list; 8,600 people make 74 million tuples. Here
position k of the shuffled list is computed from k alone, by a keyed permutation of the numbers below N (N -
1): nothing is listed, any part of the stream can be computed anywhere, and shards neither overlap nor leave
gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class PhotoPair:
    """One swap to make: `source` gives the identity, `target` everything else; `index` is its stream
    position.
    """

    index: int
    source_identity: str
    source_photo: str
    target_identity: str
    target_photo: str


class KeyedPermutation:
    """A pseudo-random permutation of range(size), computed pointwise: Feistel network with cycle walking."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs a positive size, got {size}")
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half_bits) - 1
        self._seed = seed

    def __getitem__(self, position: int) -> int:
        """Return where `position` goes; IndexError outside range(size)."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} is outside 0..{self.size - 1}")
        value = self._scramble(position)
        # The network permutes up to 4 x size numbers; walking on until back in range permutes range(size).
        while value >= self.size:
            value = self._scramble(value)
        return value

    def _scramble(self, value: int) -> int:
        left, right = value >> self._half_bits, value & self._mask
        for turn in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (_hash_int("round", self._seed, turn, right) & self._mask)
        return left << self._half_bits | right


class PairStream:
    """The shuffled stream of ordered pairs (A, B), A != B, with one photo drawn for each side.

    The stream depends on the seed and on the names alone, not on the order of the mapping. One photo of each
    side is drawn from (seed, index).
    """

    def __init__(self, photos_by_identity: Mapping[str, Sequence[str]], *, seed: int) -> None:
        """Prepare the stream; ValueError for fewer than two people or a person without photos."""
        empty = sorted(name for name, photos in photos_by_identity.items() if not photos)
        if empty:
            raise ValueError(f"people without photos: {', '.join(empty[:6])}")
        if len(photos_by_identity) < 2:
            raise ValueError("swapping needs at least two people")
        self._names = sorted(photos_by_identity)
        self._photos = [sorted(photos_by_identity[name]) for name in self._names]
        self._seed = seed
        self._permutation = KeyedPermutation(len(self._names) * (len(self._names) - 1), seed)

    def __len__(self) -> int:
        """Return the number of ordered pairs of people."""
        return self._permutation.size

    def __getitem__(self, index: int) -> PhotoPair:
        """Return the pair at a position of the stream; IndexError beyond the last."""
        source, other = divmod(self._permutation[index], len(self._names) - 1)
        target = other + (other >= source)
        source_photos, target_photos = self._photos[source], self._photos[target]
        return PhotoPair(
            index,
            self._names[source],
            source_photos[_hash_int("source", self._seed, index) % len(source_photos)],
            self._names[target],
            target_photos[_hash_int("target", self._seed, index) % len(target_photos)],
        )

    def pairs(self, count: int | None = None, *, shard: int = 0, shards: int = 1) -> Iterator[PhotoPair]:
        """Yield the first `count` pairs (all, if None) that fall to one of `shards` equal, disjoint shards.

        Shard i has positions i, i + shards, ... so that the first pairs are the same for any number of
        shards.
        """
        if not 0 <= shard < shards:
            raise ValueError(f"shard {shard} is not one of {shards}")
        limit = len(self) if count is None else min(count, len(self))
        for index in range(shard, limit, shards):
            yield self[index]


def _hash_int(*parts: str | int) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
