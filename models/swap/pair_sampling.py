"""Which photo is swapped onto which: a seeded stream of ordered pairs of people, each pair at most once.

APPLE lists all ordered pairs of people and shuffles the list; 8,600 people make 74 million tuples. Here
position k of the shuffled list is computed from k alone, by a keyed permutation of the numbers below N (N -
1): nothing is listed, any part of the stream can be computed anywhere, and shards neither overlap nor leave
gaps. Positions are computed many at a time, as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEISTEL_ROUNDS = 8
LARGEST_PERMUTATION = 1 << 62
BLOCK = 1 << 14
"""Positions that `PairStream.pairs` computes at a time."""

Positions = NDArray[np.int64]


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


@dataclass(frozen=True, eq=False)
class PairTable:
    """Pairs as columns of equal length N: stream positions (int64), and names (arrays of Python strings)."""

    index: Positions
    source_identity: NDArray[np.object_]
    source_photo: NDArray[np.object_]
    target_identity: NDArray[np.object_]
    target_photo: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Iterator[PhotoPair]:
        """The pairs one by one, in order."""
        columns = (self.source_identity, self.source_photo, self.target_identity, self.target_photo)
        for index, *names in zip(self.index.tolist(), *columns, strict=True):
            yield PhotoPair(index, *names)


class KeyedPermutation:
    """A pseudo-random permutation of range(size), computed pointwise: Feistel network with cycle walking."""

    def __init__(self, size: int, seed: int) -> None:
        """Prepare the permutation; ValueError for a size outside 1..`LARGEST_PERMUTATION`."""
        if not 1 <= size <= LARGEST_PERMUTATION:
            raise ValueError(f"a permutation needs a size of 1 to {LARGEST_PERMUTATION}, got {size}")
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        self._keys = [_key("round", seed, turn) for turn in range(FEISTEL_ROUNDS)]

    def __getitem__(self, position: int) -> int:
        """Return where `position` goes; IndexError outside range(size)."""
        return int(self.at([position])[0])

    def at(self, positions_N: ArrayLike) -> Positions:
        """Where each position goes, int64 (N,); IndexError when one is outside range(size)."""
        positions = np.asarray(positions_N, np.int64)
        outside = (positions < 0) | (positions >= self.size)
        if outside.any():
            raise IndexError(f"position {positions[outside][0]} is outside 0..{self.size - 1}")
        values = self._scramble(positions.astype(np.uint64))
        # The network permutes up to 4 x size numbers; walking on until back in range permutes range(size).
        walking = np.flatnonzero(values >= self.size)
        while len(walking):
            values[walking] = self._scramble(values[walking])
            walking = walking[values[walking] >= self.size]
        return values.astype(np.int64)

    def _scramble(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
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
        names = sorted(photos_by_identity)
        self._names = _strings(names)
        # photos of person i are `_photos[_start[i] : _start[i + 1]]`
        self._photos = _strings([photo for name in names for photo in sorted(photos_by_identity[name])])
        self._start = np.cumsum([0, *(len(photos_by_identity[name]) for name in names)])
        self._photo_keys = (_key("source", seed), _key("target", seed))
        self._permutation = KeyedPermutation(len(names) * (len(names) - 1), seed)

    def __len__(self) -> int:
        """Return the number of ordered pairs of people."""
        return self._permutation.size

    def __getitem__(self, index: int) -> PhotoPair:
        """Return the pair at a position of the stream; IndexError beyond the last."""
        return next(self.at([index]).rows())

    def at(self, positions_N: ArrayLike) -> PairTable:
        """The pairs at some positions of the stream, in that order; IndexError beyond the last."""
        positions = np.asarray(positions_N, np.int64)
        source, other = np.divmod(self._permutation.at(positions), len(self._names) - 1)
        target = other + (other >= source)
        source_key, target_key = self._photo_keys
        return PairTable(
            positions,
            self._names[source],
            self._drawn_photos(source, positions, source_key),
            self._names[target],
            self._drawn_photos(target, positions, target_key),
        )

    def pair_table(self, count: int | None = None, *, shard: int = 0, shards: int = 1) -> PairTable:
        """The first `count` pairs (all, if None) that fall to one of `shards` equal, disjoint shards.

        Shard i has positions i, i + shards, ... so that the first pairs are the same for any number of
        shards. Raises ValueError when there is no such shard.
        """
        return self.at(np.arange(*self._bounds(count, shard, shards), dtype=np.int64))

    def pairs(self, count: int | None = None, *, shard: int = 0, shards: int = 1) -> Iterator[PhotoPair]:
        """Yield the pairs of `pair_table` one by one, in memory that does not grow with their number."""
        start, stop, step = self._bounds(count, shard, shards)
        for first in range(start, stop, step * BLOCK):
            yield from self.at(np.arange(first, min(stop, first + step * BLOCK), step, dtype=np.int64)).rows()

    def _bounds(self, count: int | None, shard: int, shards: int) -> tuple[int, int, int]:
        if not 0 <= shard < shards:
            raise ValueError(f"shard {shard} is not one of {shards}")
        return shard, len(self) if count is None else min(count, len(self)), shards

    def _drawn_photos(self, people: Positions, positions: Positions, key: np.uint64) -> NDArray[np.object_]:
        """One photo of each person, drawn by the stream position."""
        start = self._start[people]
        counts = (self._start[people + 1] - start).astype(np.uint64)
        # 32 random bits scaled to the count: even to one part in 2^32 / count
        drawn = (_mix(positions.astype(np.uint64) ^ key) >> np.uint64(32)) * counts >> np.uint64(32)
        return self._photos[start + drawn.astype(np.int64)]


def _strings(names: Sequence[str]) -> NDArray[np.object_]:
    array = np.empty(len(names), object)
    array[:] = names
    return array


def _key(*parts: str | int) -> np.uint64:
    """64 bits that depend on all parts."""
    text = "/".join(str(part) for part in parts)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of a number spread over 64: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
