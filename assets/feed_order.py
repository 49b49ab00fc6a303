"""In which order rows are fed, and to whom: shuffled epochs, shared by ranks, from any step on.

The order is one endless sequence, epoch after epoch, cut into batches: a step may end one epoch and begin the
next, so nothing is dropped. Where row k of it lies is a function of (seed, k), so seed and step are the whole
position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from assets.feeding import PixelBatch, PixelRows
    from models.swap.reading import Readers

SHUFFLE = 3
"""Purpose of the order's random numbers; 0 to 2 are those of a training's steps (`models.swap`)."""


@dataclass(frozen=True)
class ShuffledEpochs:
    """Which rows every step gets: each epoch has all rows once, in an order that seed and epoch decide.

    Attributes:
        count: how many rows there are.
        batch_size: rows of a step, over all ranks.
        seed: decides the order.

    Raises:
        ValueError: nothing to feed, or no row in a step.
    """

    count: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"{self.count} rows cannot be fed in steps of {self.batch_size}")

    def epoch(self, step: int) -> int:
        """The epoch, from 0, in which a step begins; steps count from 1."""
        return (step - 1) * self.batch_size // self.count

    def places(self, step: int, rank: int = 0, ranks: int = 1) -> NDArray[np.int64]:
        """Places of the rows that a step has for this rank; all ranks together have the step's batch.

        Raises:
            ValueError: the step's rows cannot be shared equally by so many ranks.
        """
        if self.batch_size % ranks:
            raise ValueError(
                f"a batch of {self.batch_size} rows cannot be shared equally by {ranks} processes; "
                "start a number of processes that divides it"
            )
        share = self.batch_size // ranks
        first = (step - 1) * self.batch_size + rank * share
        epochs, positions = np.divmod(np.arange(first, first + share), self.count)
        places = np.empty(share, np.int64)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            places[now] = _order(self.seed, int(epoch), self.count)[positions[now]]
        return places


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, SHUFFLE, epoch]).permutation(count)


@dataclass(frozen=True)
class FedStep:
    """This rank's rows of one step: which they are, by place, and what was read of them."""

    step: int
    places_B: NDArray[np.int64]
    batch: PixelBatch


def feed(
    rows: PixelRows,
    order: ShuffledEpochs,
    steps: range,
    *,
    rank: int = 0,
    ranks: int = 1,
    ahead: int = 1,
    readers: Readers | None = None,
    steps_per_take: int = 1,
) -> Iterator[FedStep]:
    """Yield this rank's rows of every step, in order, read before their time.

    Args:
        rows: what is read.
        order: which rows, when; of as many rows.
        steps: from 1; a resumed run begins behind its last finished one.
        rank: this process.
        ranks: how many share every step.
        ahead: how many takes wait at most, for each reader; 0 reads when asked.
        readers: threads or processes that read; one thread by default.
        steps_per_take: steps that are read with one take; more than one where a step has few rows.

    Raises:
        LakeError: as `PixelRows.read`, at the step it belongs to or one before it of the same take.
        ValueError: the order is of another number of rows, or cannot be shared by the ranks.
    """
    from models.swap.reading import ONE_THREAD, in_order

    if order.count != len(rows):
        raise ValueError(f"the order is of {order.count} rows, there are {len(rows)}")
    order.places(1, rank, ranks)  # refuses what cannot be shared, before anything is read
    read = partial(_read_take, rows, order, steps, rank, ranks)
    takes = range(0, len(steps), steps_per_take)
    for take in in_order(partial(read, steps_per_take), takes, ahead=ahead, readers=readers or ONE_THREAD):
        yield from take


def _read_take(
    rows: PixelRows, order: ShuffledEpochs, steps: range, rank: int, ranks: int, many: int, first: int
) -> list[FedStep]:
    """The steps that begin at one place of `steps`, of one take."""
    together = steps[first : first + many]
    places = [order.places(step, rank, ranks) for step in together]
    batches = rows.read_together(places)
    return [FedStep(*step) for step in zip(together, places, batches, strict=True)]
