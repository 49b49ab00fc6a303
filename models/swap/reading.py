"""Batches read one ahead in a thread, while the step before is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from models.swap.data import Choices
from models.swap.seeds import DATA, step_seed
from models.swap.training_recipe import TrainingRecipe

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)


class BatchSource(Protocol[Batch_co]):
    """Where batches come from; `models.swap.data.TrainingData` is one such source."""

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Draw rows without reading any; the same generator gives the same rows."""
        ...

    def read(self, choices_BK: Choices) -> Batch_co:
        """Return the drawn rows."""
        ...


@dataclass(frozen=True)
class ReadBatch(Generic[Batch]):
    """This process's rows of one step: the step, what was drawn for them, and their values."""

    step: int
    choices_BK: Choices
    batch: Batch


def read_batches(
    data: BatchSource[Batch], recipe: TrainingRecipe, rows: range, steps: range, *, ahead: int = 1
) -> Iterator[ReadBatch[Batch]]:
    """Yield the named rows of every step's batch, in order, up to `ahead` of them read before their time.

    What a step gets depends on the recipe's seed, its number and `rows` alone. An error while reading is
    raised at the step it belongs to.
    """

    def read(step: int) -> ReadBatch[Batch]:
        rng = np.random.default_rng(step_seed(recipe.seed, step, DATA))
        choices = data.draw(rng, recipe.batch_size)[rows.start : rows.stop]
        return ReadBatch(step, choices, data.read(choices))

    if ahead == 0:
        yield from map(read, steps)
        return
    waiting: deque[Future[ReadBatch[Batch]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        try:
            for step in steps:
                waiting.append(pool.submit(read, step))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
