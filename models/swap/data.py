"""Training data in memory, as latents and embeddings: for the teacher, and for the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class TrainingBatch:
    """One batch, float32: what to rebuild, what the condition branch sees, whose face it is."""

    target_latents_BLC: Tensor
    condition_latents_BLC: Tensor
    identity_BD: Tensor


class TrainingData(Protocol):
    """A source of batches that depends on the given generator alone, so that any step can be repeated."""

    def sample(self, rng: np.random.Generator, batch_size: int) -> TrainingBatch:
        """Return `batch_size` rows drawn with replacement."""
        ...


class OtherPhotos:
    """For each photo, the other photos of the same person."""

    def __init__(self, people: NDArray) -> None:
        _, self._person_N = np.unique(people, return_inverse=True)
        self._order = np.argsort(self._person_N, kind="stable")
        self._counts = np.bincount(self._person_N)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._rank_N = np.empty(len(people), dtype=np.int64)
        self._rank_N[self._order] = np.arange(len(people)) - np.repeat(self._starts, self._counts)

    def has_other(self) -> NDArray[np.bool_]:
        """Return, for each photo, whether its person has another one."""
        return self._counts[self._person_N] > 1

    def draw(self, rng: np.random.Generator, photos_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each photo one other photo of its person, uniformly; each must have one."""
        person = self._person_N[photos_B]
        step = 1 + np.floor(rng.random(len(photos_B)) * (self._counts[person] - 1)).astype(np.int64)
        rank = (self._rank_N[photos_B] + step) % self._counts[person]
        return self._order[self._starts[person] + rank]


def _rows(array: FloatArray, rows_B: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[rows_B], dtype=np.float32))


class TeacherData:
    """Same-person reconstruction: rebuild a photo from its condition image and another photo's identity.

    Arrays (any float type): target and condition latents (N, L, C), embeddings (N, D), and `people` (N,),
    labels. Photos of people with one photo are never targets. ValueError if nothing is left or lengths
    differ.
    """

    def __init__(
        self,
        target_latents_NLC: FloatArray,
        condition_latents_NLC: FloatArray,
        identity_ND: FloatArray,
        people: NDArray,
    ) -> None:
        lengths = {len(target_latents_NLC), len(condition_latents_NLC), len(identity_ND), len(people)}
        if len(lengths) != 1:
            raise ValueError(
                f"targets, conditions, identities and people differ in length: {sorted(lengths)}"
            )
        self._targets, self._conditions, self._identities = (
            target_latents_NLC,
            condition_latents_NLC,
            identity_ND,
        )
        self._others = OtherPhotos(people)
        self._usable = np.flatnonzero(self._others.has_other())
        if not len(self._usable):
            raise ValueError("no person has two photos; a teacher learns from pairs of photos of one person")

    def __len__(self) -> int:
        """Return how many photos can be targets."""
        return len(self._usable)

    def sample(self, rng: np.random.Generator, batch_size: int) -> TrainingBatch:
        """Return targets with their conditions and the embedding of another photo of the same person."""
        targets = rng.choice(self._usable, size=batch_size)
        others = self._others.draw(rng, targets)
        return TrainingBatch(
            _rows(self._targets, targets), _rows(self._conditions, targets), _rows(self._identities, others)
        )


class StudentData:
    """Pseudo triplets: rebuild a photo of A from its swapped version and another photo of A.

    `swapped_latents_MLC` are the teacher's swaps and `target_M` the photo (row of the photo arrays) that each
    was made from. ValueError if a target's person has no other photo, or lengths differ.
    """

    def __init__(
        self,
        swapped_latents_MLC: FloatArray,
        target_M: NDArray[np.int64],
        photo_latents_NLC: FloatArray,
        identity_ND: FloatArray,
        people: NDArray,
    ) -> None:
        if len(swapped_latents_MLC) != len(target_M) or not len(target_M):
            raise ValueError("there must be as many swapped images as targets, and at least one")
        if not len(photo_latents_NLC) == len(identity_ND) == len(people):
            raise ValueError("photo latents, identities and people differ in length")
        self._swapped, self._target_M = swapped_latents_MLC, np.asarray(target_M, dtype=np.int64)
        self._photos, self._identities = photo_latents_NLC, identity_ND
        self._others = OtherPhotos(people)
        if not self._others.has_other()[self._target_M].all():
            raise ValueError("every target's person needs another photo, to take the identity from")

    def __len__(self) -> int:
        """Return how many triplets there are."""
        return len(self._target_M)

    def sample(self, rng: np.random.Generator, batch_size: int) -> TrainingBatch:
        """Return the original photos, the swaps as conditions, and another photo's embedding."""
        triplets = rng.integers(len(self), size=batch_size)
        targets = self._target_M[triplets]
        others = self._others.draw(rng, targets)
        return TrainingBatch(
            _rows(self._photos, targets), _rows(self._swapped, triplets), _rows(self._identities, others)
        )
