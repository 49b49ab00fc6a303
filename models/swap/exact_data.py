"""Training data with exact swaps: the supervision that only a world with ground truth has.

It is no part of APPLE. A teacher that learns from it shows how far the same network gets when the answer is
known: the ceiling beside which same-person deblurring and pseudo triplets are read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.swap.data import (
    VALIDATION_PURPOSE,
    Choices,
    OtherPhotos,
    Rows,
    TrainingBatch,
    ValidationRows,
    read_rows,
)


class ExactSwapData:
    """Exact swaps: rebuild B in A's photograph from that photograph's condition image and a photograph of B.

    The identity comes from any photograph of B, the pair's own among them: none of them is the answer.

    Args:
        truth_latents_MLC: latents of the exact swaps.
        source_M: a photograph of B for each (row of the photo arrays).
        target_M: the photograph of A that each swap is made on.
        photo_latents_NLC: latents of every photograph; validation shows them.
        condition_latents_NLC: latents of its condition image.
        identity_ND: its embedding for the identity path.
        people: (N,) whose photograph it is.
        reference_ND: its embedding by the loss network, where that is another.
        points_N52: its five points in the model's frame. The aligned crop of an identity loss takes the
            target's: the answer has its pose and expression, in the source's shape.
        held_out: how many swaps are kept for `validation`.
        seed: decides which.

    Raises:
        ValueError: lengths differ, a pair is of one person, or no swap is left to learn from.
    """

    def __init__(
        self,
        truth_latents_MLC: Rows,
        source_M: NDArray[np.int64],
        target_M: NDArray[np.int64],
        photo_latents_NLC: Rows,
        condition_latents_NLC: Rows,
        identity_ND: Rows,
        people: NDArray,
        *,
        reference_ND: Rows | None = None,
        points_N52: Rows | None = None,
        held_out: int = 0,
        seed: int = 0,
    ) -> None:
        count = len(truth_latents_MLC)
        if len(source_M) != count or len(target_M) != count:
            raise ValueError(
                f"{count} exact swaps need a source and a target each, there are {len(source_M)} and "
                f"{len(target_M)}"
            )
        given = (photo_latents_NLC, condition_latents_NLC, identity_ND, people, reference_ND, points_N52)
        if len({len(rows) for rows in given if rows is not None}) != 1:
            raise ValueError("photo latents, condition latents, identities and people differ in length")
        self._truths = truth_latents_MLC
        self._source_M, self._target_M = np.asarray(source_M, np.int64), np.asarray(target_M, np.int64)
        if (people[self._source_M] == people[self._target_M]).any():
            raise ValueError("a swap needs two people; a pair's source and target are of one")
        if held_out >= count:
            raise ValueError(
                f"{held_out} of {count} exact swaps are to be held out for validation, which leaves none; "
                "list more pairs for training, or lower validation_images"
            )
        self._photos, self._conditions = photo_latents_NLC, condition_latents_NLC
        self._identities, self._references, self._points = identity_ND, reference_ND, points_N52
        self._others = OtherPhotos(people)
        order = np.random.default_rng([seed, VALIDATION_PURPOSE]).permutation(count)
        self._held_out, self._usable = np.sort(order[:held_out]), np.sort(order[held_out:])

    def __len__(self) -> int:
        """Return how many swaps can be drawn."""
        return len(self._usable)

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (swap, source photo): the source is any photo of the person whom the swap shows."""
        swaps = rng.choice(self._usable, size=batch_size)
        return np.stack([swaps, self._others.draw(rng, self._source_M[swaps], itself=True)], axis=1)

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return the exact swaps, their targets' condition images, and the sources' embeddings."""
        swaps, sources = choices_BK.T
        targets = self._target_M[swaps]
        references, points = self._references, self._points
        return TrainingBatch(
            read_rows(self._truths, swaps),
            read_rows(self._conditions, targets),
            read_rows(self._identities, sources),
            None if references is None else read_rows(references, sources),
            None if points is None else read_rows(points, targets),
        )

    def validation(self) -> ValidationRows:
        """Return the held-out pairs: source and target photographs as they were listed."""
        sources, targets = self._source_M[self._held_out], self._target_M[self._held_out]
        return ValidationRows(
            read_rows(self._photos, sources),
            read_rows(self._photos, targets),
            read_rows(self._conditions, targets),
            read_rows(self._identities, sources),
        )
