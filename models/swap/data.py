"""Training data as latents and embeddings: for the teacher, and for the student.

Drawing and reading are two things. `draw` says by whole numbers which rows make a step's batch, the same in
every process; `read` brings the rows that one process is to work on. So a step is a function of its seed
alone, however many processes and readers there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Choices = NDArray[np.int64]
"""What makes a batch: one line of whole numbers per row, (B, K); their meaning is the data's own business."""


class Rows(Protocol):
    """N rows of numbers, each of one shape, read by row: a numpy array, or a reader of the lake."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows_B: NDArray[np.int64], /) -> NDArray:
        """Return the named rows (B, ...), in that order; a row may be named twice."""
        ...


@dataclass(frozen=True)
class TrainingBatch:
    """One batch, float32: what to rebuild, what the condition branch sees, whose face it is.

    `reference_BD` is the loss network's embedding of the source photograph, where that network is another
    than the one that `identity_BD` comes from. `points_B52` are the target's five points (eyes, nose, corners
    of the mouth) in pixels of the model's frame, for the aligned crop of the identity loss.
    """

    target_latents_BLC: Tensor
    condition_latents_BLC: Tensor
    identity_BD: Tensor
    reference_BD: Tensor | None = None
    points_B52: Tensor | None = None


class TrainingData(Protocol):
    """A source of batches that depends on the given generator alone, so that any step can be repeated."""

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Draw `batch_size` rows with replacement, without reading any."""
        ...

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return the drawn rows; called from a thread of its own, one batch ahead."""
        ...


@dataclass(frozen=True)
class ValidationRows:
    """Held-out pairs, for grids: V sources and targets as latents, float32, and the sources' identities."""

    source_latents_VLC: Tensor
    target_latents_VLC: Tensor
    condition_latents_VLC: Tensor
    identity_VD: Tensor


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

    def draw(
        self, rng: np.random.Generator, photos_B: NDArray[np.int64], *, itself: bool = False
    ) -> NDArray[np.int64]:
        """Return for each photo another photo of its person (or, with `itself`, any), uniformly.

        Without `itself` every person must have another photo.
        """
        person = self._person_N[photos_B]
        first = 0 if itself else 1
        step = first + np.floor(rng.random(len(photos_B)) * (self._counts[person] - first)).astype(np.int64)
        rank = (self._rank_N[photos_B] + step) % self._counts[person]
        return self._order[self._starts[person] + rank]

    def draw_stranger(self, rng: np.random.Generator, photo: int) -> int:
        """Return a photo of anybody but the photo's person. ValueError if there is nobody else."""
        strangers = np.flatnonzero(self._person_N != self._person_N[photo])
        if not len(strangers):
            raise ValueError("validation with another identity needs two people; there is one")
        return int(rng.choice(strangers))


def read_rows(rows: Rows, wanted_B: NDArray[np.int64]) -> Tensor:
    """Return the named rows as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(rows[wanted_B], dtype=np.float32))


def _maybe(rows: Rows | None, wanted_B: NDArray[np.int64]) -> Tensor | None:
    return None if rows is None else read_rows(rows, wanted_B)


VALIDATION_PURPOSE = 2
"""Keeps the draws of held-out rows apart from those of the steps (0: data, 1: noise and dropouts)."""


def _held_out(seed: int, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` of the rows in an order that the seed decides."""
    if count and count >= len(rows):
        raise ValueError(
            f"{count} of {len(rows)} possible targets are to be held out for validation, which leaves none; "
            "lower validation_images, or set validation_interval to None"
        )
    rng = np.random.default_rng([seed, VALIDATION_PURPOSE])
    return np.sort(rng.permutation(rows)[:count])


class TeacherData:
    """Same-person reconstruction: rebuild a photo from its condition image and another photo's identity.

    Photos of people with one photo are never targets (unless a source may be its own target), nor are the
    `held_out` ones, chosen by the seed.

    Args:
        target_latents_NLC: latents of every photo.
        condition_latents_NLC: latents of its condition image.
        identity_ND: its embedding for the identity path.
        people: (N,) whose photo it is.
        reference_ND: its embedding by the loss network, where that is another.
        points_N52: its five points in the model's frame.
        source_may_be_target: whether the identity may come from the target itself.
        held_out: how many photos are kept for `validation`.
        seed: decides which.

    Raises:
        ValueError: no target is left, or lengths differ.
    """

    def __init__(
        self,
        target_latents_NLC: Rows,
        condition_latents_NLC: Rows,
        identity_ND: Rows,
        people: NDArray,
        *,
        reference_ND: Rows | None = None,
        points_N52: Rows | None = None,
        source_may_be_target: bool = False,
        held_out: int = 0,
        seed: int = 0,
    ) -> None:
        given = (target_latents_NLC, condition_latents_NLC, identity_ND, people, reference_ND, points_N52)
        lengths = {len(rows) for rows in given if rows is not None}
        if len(lengths) != 1:
            raise ValueError(
                f"targets, conditions, identities and people differ in length: {sorted(lengths)}"
            )
        self._targets, self._conditions, self._identities = (
            target_latents_NLC,
            condition_latents_NLC,
            identity_ND,
        )
        self._references, self._points = reference_ND, points_N52
        self._others = OtherPhotos(people)
        self._may_be_target, self._seed = source_may_be_target, seed
        usable = np.flatnonzero(self._others.has_other() | source_may_be_target)
        if not len(usable):
            raise ValueError("no person has two photos; a teacher learns from pairs of photos of one person")
        self._held_out = _held_out(seed, usable, held_out)
        self._usable = np.setdiff1d(usable, self._held_out)

    def __len__(self) -> int:
        """Return how many photos can be targets."""
        return len(self._usable)

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (target, source) photos: the source is another photo of the target's person."""
        targets = rng.choice(self._usable, size=batch_size)
        return np.stack([targets, self._others.draw(rng, targets, itself=self._may_be_target)], axis=1)

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return targets with their conditions, and the sources' embeddings."""
        targets, sources = choices_BK.T
        return TrainingBatch(
            read_rows(self._targets, targets),
            read_rows(self._conditions, targets),
            read_rows(self._identities, sources),
            _maybe(self._references, sources),
            _maybe(self._points, targets),
        )

    def validation(self, *, other_identity: bool) -> ValidationRows:
        """Return the held-out photos with the identity of another person, or of their own other photo."""
        rng = np.random.default_rng([self._seed, VALIDATION_PURPOSE, 1])
        targets = self._held_out
        sources = _sources(self._others, rng, targets, other_identity, self._may_be_target)
        return ValidationRows(
            read_rows(self._targets, sources),
            read_rows(self._targets, targets),
            read_rows(self._conditions, targets),
            read_rows(self._identities, sources),
        )


class StudentData:
    """Pseudo triplets: rebuild a photo of A from its swapped version and another photo of A.

    `swapped_latents_MLC` are the teacher's swaps and `target_M` the photo (row of the photo arrays) that each
    was made from; everything else as for `TeacherData`, with triplets held out.

    Raises:
        ValueError: a target's person has no other photo, or lengths differ.
    """

    def __init__(
        self,
        swapped_latents_MLC: Rows,
        target_M: NDArray[np.int64],
        photo_latents_NLC: Rows,
        identity_ND: Rows,
        people: NDArray,
        *,
        reference_ND: Rows | None = None,
        points_N52: Rows | None = None,
        source_may_be_target: bool = False,
        held_out: int = 0,
        seed: int = 0,
    ) -> None:
        if len(swapped_latents_MLC) != len(target_M) or not len(target_M):
            raise ValueError("there must be as many swapped images as targets, and at least one")
        given = (photo_latents_NLC, identity_ND, people, reference_ND, points_N52)
        if len({len(rows) for rows in given if rows is not None}) != 1:
            raise ValueError("photo latents, identities and people differ in length")
        self._swapped, self._target_M = swapped_latents_MLC, np.asarray(target_M, dtype=np.int64)
        self._photos, self._identities = photo_latents_NLC, identity_ND
        self._references, self._points = reference_ND, points_N52
        self._others = OtherPhotos(people)
        self._may_be_target, self._seed = source_may_be_target, seed
        if not (self._others.has_other() | source_may_be_target)[self._target_M].all():
            raise ValueError("every target's person needs another photo, to take the identity from")
        self._held_out = _held_out(seed, np.arange(len(self._target_M)), held_out)
        self._usable = np.setdiff1d(np.arange(len(self._target_M)), self._held_out)

    def __len__(self) -> int:
        """Return how many triplets can be drawn."""
        return len(self._usable)

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (triplet, source photo): the source is another photo of the triplet's target person."""
        triplets = rng.choice(self._usable, size=batch_size)
        sources = self._others.draw(rng, self._target_M[triplets], itself=self._may_be_target)
        return np.stack([triplets, sources], axis=1)

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return the original photos, the swaps as conditions, and the sources' embeddings."""
        triplets, sources = choices_BK.T
        targets = self._target_M[triplets]
        return TrainingBatch(
            read_rows(self._photos, targets),
            read_rows(self._swapped, triplets),
            read_rows(self._identities, sources),
            _maybe(self._references, sources),
            _maybe(self._points, targets),
        )

    def validation(self, *, other_identity: bool) -> ValidationRows:
        """Return held-out triplets: the swap in, and whom it should become."""
        rng = np.random.default_rng([self._seed, VALIDATION_PURPOSE, 1])
        targets = self._target_M[self._held_out]
        sources = _sources(self._others, rng, targets, other_identity, self._may_be_target)
        return ValidationRows(
            read_rows(self._photos, sources),
            read_rows(self._photos, targets),
            read_rows(self._swapped, self._held_out),
            read_rows(self._identities, sources),
        )


def _sources(
    others: OtherPhotos, rng: np.random.Generator, targets: NDArray[np.int64], other: bool, itself: bool
) -> NDArray[np.int64]:
    if not other:
        return others.draw(rng, targets, itself=itself)
    return np.array([others.draw_stranger(rng, int(photo)) for photo in targets], np.int64)
