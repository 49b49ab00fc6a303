"""Batches read before their time, in threads or in processes of their own, while earlier ones are computed.

Whoever reads, and however many: a step's batch is a function of its number, and batches come in order.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from models.swap.data import Choices
from models.swap.seeds import DATA, step_seed
from models.swap.training_recipe import TrainingRecipe

T = TypeVar("T")
Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)


@dataclass(frozen=True)
class Readers:
    """Who reads ahead. It decides waiting and memory, never what is read.

    Threads share the interpreter with the training; processes do not, but start in seconds and send what they
    read through shared memory, which takes tensors best.
    """

    kind: Literal["threads", "processes"] = "threads"
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"at least one reader is needed, not {self.count}")


ONE_THREAD = Readers()


class BatchSource(Protocol[Batch_co]):
    """Where batches come from; `models.swap.data.TrainingData` is one such source."""

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Draw rows without reading any; the same generator gives the same rows."""
        ...

    def read(self, choices_BK: Choices) -> Batch_co:
        """Return the drawn rows; may be called from several threads at once."""
        ...


@dataclass(frozen=True)
class ReadBatch(Generic[Batch]):
    """This process's rows of one step: the step, what was drawn for them, and their values."""

    step: int
    choices_BK: Choices
    batch: Batch


def read_batches(
    data: BatchSource[Batch],
    recipe: TrainingRecipe,
    rows: range,
    steps: range,
    *,
    ahead: int = 1,
    readers: Readers = ONE_THREAD,
) -> Iterator[ReadBatch[Batch]]:
    """Yield the named rows of every step's batch, in order, up to `ahead` of them a reader before their time.

    What a step gets depends on the recipe's seed, its number and `rows` alone. An error while reading is
    raised at the step it belongs to.
    """
    read = partial(_read_step, data, recipe.seed, recipe.batch_size, rows)
    return in_order(read, steps, ahead=ahead, readers=readers)


def _read_step(
    data: BatchSource[Batch], seed: int, batch_size: int, rows: range, step: int
) -> ReadBatch[Batch]:
    rng = np.random.default_rng(step_seed(seed, step, DATA))
    choices = data.draw(rng, batch_size)[rows.start : rows.stop]
    return ReadBatch(step, choices, data.read(choices))


def in_order(
    read: Callable[[int], T], items: range, *, ahead: int = 1, readers: Readers = ONE_THREAD
) -> Iterator[T]:
    """Yield `read` of every item, in order; each reader is up to `ahead` items before its time.

    Args:
        read: makes one item out of its number alone. For processes it must be picklable.
        items: the numbers.
        ahead: how many finished items wait at most, for each reader; 0 reads when asked, in this thread.
        readers: who reads.

    Raises:
        TypeError: `read` cannot be sent to a process.
        RuntimeError: a process died.
    """
    if ahead == 0:
        return map(read, items)
    if readers.kind == "processes":
        return _by_processes(read, items, ahead, readers.count)
    return _by_threads(read, items, ahead * readers.count, readers.count)


def _by_threads(read: Callable[[int], T], items: range, ahead: int, count: int) -> Iterator[T]:
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(max_workers=count, thread_name_prefix="batches") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _by_processes(read: Callable[[int], T], items: range, ahead: int, count: int) -> Iterator[T]:
    from torch.utils.data import DataLoader

    # neither forked from here, where Lance's threads run and would be missing, nor each loading its libraries
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__, *_modules(read)])
    loader = DataLoader(
        _Items(read, items),  # pyright: ignore[reportArgumentType] -- a length and items are all that is used
        batch_size=None,
        num_workers=count,
        prefetch_factor=ahead,
        multiprocessing_context=context,
        worker_init_fn=_begin_reading,
    )
    try:
        batches = iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"these batches cannot be read by processes ({error}); take threads, or give whatever they are "
            "read with as an instance of a class at the top of a module"
        ) from error
    yield from batches


def _modules(read: Callable[..., object]) -> list[str]:
    """Where the function is from, and what it is bound to: what its process is to have loaded."""
    inner = read.func if isinstance(read, partial) else read
    bound = (*read.args, *read.keywords.values()) if isinstance(read, partial) else ()
    owners = (inner, getattr(inner, "__self__", None), *bound)
    names = {getattr(owner, "__module__", None) or type(owner).__module__ for owner in owners}
    return sorted(name for name in names if isinstance(name, str) and name not in ("builtins", "__main__"))


class _Items(Generic[T]):
    """A dataset of torch's kind: item by place."""

    def __init__(self, read: Callable[[int], T], items: range) -> None:
        self._read, self._items = read, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> T:
        return self._read(self._items[place])


def _begin_reading(worker: int) -> None:
    """Read with one thread, and end with the training.

    Several readers share the cores, and OpenCV would start a thread per core in each. A training that is
    killed tells its readers nothing; they see the end of the pipe that joins them to it.
    """
    import cv2

    cv2.setNumThreads(1)
    training = parent_process()
    assert training is not None  # this runs in a reader

    def end_with_the_training() -> None:
        wait([training.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_the_training, daemon=True).start()
