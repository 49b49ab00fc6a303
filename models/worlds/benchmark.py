"""The benchmark: swaps between people and photographs that nothing is trained on, the same for everybody.

A pair is a source photograph and a target photograph of two different people, both close-ups; its exact
answer is the source person rendered with the target photograph's attributes. Everything follows from one
seed, row by row, so the first 20 pairs are the same whether 20 or 200 are taken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.worlds.parameters import Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import WORLD_VERSION, render

BENCHMARK_VERSION: Final = "1"
"""Changes whenever the same seed gives other pairs or other candidates."""

BENCHMARK_SEED: Final = 606_000_000
"""Seed of the benchmark. Training uses seeds below 1000, and those plus 1 000 003; never one near this."""

BENCHMARK_PAIRS: Final = 200
CANDIDATES: Final = 20
"""Identities among which render retrieval looks: the source, the target, and 18 strangers."""

HASH_DIGITS: Final = 12
"""Digits of `benchmark_hash` that are printed."""

_STRANGERS_OFFSET: Final = 1
_HASH_SIZE: Final = 64
_HASH_BATCH: Final = 50


@dataclass(frozen=True)
class BenchmarkPairs:
    """The parameters behind N pairs; row i of every table belongs to pair i.

    `sources` and `targets` are the two people, `source_attributes` and `target_attributes` say how each was
    photographed. The strangers of render retrieval follow from `candidate_seed`.
    """

    seed: int
    sources: Identities
    targets: Identities
    source_attributes: Attributes
    target_attributes: Attributes

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, rows: slice) -> BenchmarkPairs:
        """The pairs of a slice; strangers are drawn for whole benchmarks, so not to be scored by itself."""
        return BenchmarkPairs(
            self.seed,
            self.sources[rows],
            self.targets[rows],
            self.source_attributes[rows],
            self.target_attributes[rows],
        )

    @property
    def candidate_seed(self) -> int:
        """Seed of `candidate_identities` for this benchmark."""
        return self.seed + _STRANGERS_OFFSET

    def source_photos(self, size: int = 256) -> NDArray[np.uint8]:
        """Source photographs, uint8 RGB (N, size, size, 3)."""
        return render(self.sources, self.source_attributes, size).images_NHWC

    def target_photos(self, size: int = 256) -> NDArray[np.uint8]:
        """Target photographs, uint8 RGB (N, size, size, 3)."""
        return render(self.targets, self.target_attributes, size).images_NHWC

    def truths(self, size: int = 256) -> NDArray[np.uint8]:
        """The exact swaps, uint8 RGB (N, size, size, 3)."""
        return render(self.sources, self.target_attributes, size).images_NHWC


def benchmark_pairs(pairs: int = BENCHMARK_PAIRS, seed: int = BENCHMARK_SEED) -> BenchmarkPairs:
    """The first `pairs` pairs of the benchmark of `seed`; 2 x `pairs` people, each in one photograph.

    Raises `ValueError` for fewer than one pair.
    """
    if pairs < 1:
        raise ValueError(f"a benchmark has at least one pair, not {pairs}")
    people = sample_identities(seed, 2 * pairs)
    photos = sample_attributes(seed, 2 * pairs, crops=("face",))
    source_rows, target_rows = slice(0, None, 2), slice(1, None, 2)
    return BenchmarkPairs(
        seed=seed,
        sources=people[source_rows],
        targets=people[target_rows],
        source_attributes=photos[source_rows],
        target_attributes=photos[target_rows],
    )


def candidate_identities(
    sources: Identities, targets: Identities, candidates: int = CANDIDATES, seed: int = BENCHMARK_SEED + 1
) -> NDArray[np.float32]:
    """Whom render retrieval chooses among, per pair: float32 (N, candidates, I).

    Candidate 0 is the source, candidate 1 the target (so that a copy of the target is never a hit), the rest
    are strangers drawn row by row from `seed`.

    Raises `ValueError` for fewer than two candidates, tables of different length, or a pair of one person.
    """
    if candidates < 2:
        raise ValueError(f"render retrieval needs source and target among its candidates, not {candidates}")
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources do not match {len(targets)} targets: give one each")
    same = (sources.values == targets.values).all(axis=1)
    if same.any():
        raise ValueError(f"pair {int(np.argmax(same))} swaps a person with herself, which is no swap")
    count, width = sources.values.shape
    strangers = sample_identities(seed, count * (candidates - 2)).values.reshape(count, candidates - 2, width)
    return np.concatenate([sources.values[:, None], targets.values[:, None], strangers], axis=1)


def benchmark_hash(pairs: BenchmarkPairs) -> str:
    """SHA-256, 64 hex digits, of what is asked and what the answer is.

    It covers the versions of benchmark and world, every parameter of pairs and candidates, and the decoded
    pixels of all sources, targets and truths at 64 px. The size at which pictures are handed out is not part
    of it. A machine whose arithmetic rounds a single pixel otherwise gives another hash.
    """
    digest = hashlib.sha256(f"orchard benchmark {BENCHMARK_VERSION}, world {WORLD_VERSION}\n".encode())
    tables = (pairs.sources, pairs.targets, pairs.source_attributes, pairs.target_attributes)
    candidates = candidate_identities(pairs.sources, pairs.targets, CANDIDATES, pairs.candidate_seed)
    for values in (*(table.values for table in tables), candidates):
        digest.update(f"{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values, "<f4").tobytes())
    for first in range(0, len(pairs), _HASH_BATCH):
        part = pairs[first : first + _HASH_BATCH]
        for pictures in (
            part.source_photos(_HASH_SIZE),
            part.target_photos(_HASH_SIZE),
            part.truths(_HASH_SIZE),
        ):
            digest.update(pictures.tobytes())
    return digest.hexdigest()
