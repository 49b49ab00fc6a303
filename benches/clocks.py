"""Clocks on functions: wall and processor time inside them, while other code calls them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Clock:
    """Adds up the time inside something: `seconds` on the wall, `cpu` of the whole process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        started, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
            self.cpu += time.process_time() - cpu

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to this clock."""

        def call(*arguments: Any) -> Any:
            with self.running():
                return function(*arguments)

        return call

    def without(self, *others: Clock) -> Clock:
        """This clock's time less that of others."""
        left = Clock()
        left.seconds = self.seconds - sum(other.seconds for other in others)
        left.cpu = self.cpu - sum(other.cpu for other in others)
        return left


def best_seconds(work: Callable[[], object], tries: int) -> float:
    """Shortest wall time of several tries: what a busy machine adds is left out as far as it can be."""
    clocks = [Clock() for _ in range(tries)]
    for clock in clocks:
        with clock.running():
            work()
    return min(clock.seconds for clock in clocks)


def total(clocks: Iterable[Clock]) -> Clock:
    """The time of several clocks together."""
    found = Clock()
    for clock in clocks:
        found.seconds += clock.seconds
        found.cpu += clock.cpu
    return found


@contextmanager
def clocked(*functions: tuple[ModuleType, str]) -> Iterator[Clock]:
    """A clock on functions as other code finds them in these modules."""
    clock = Clock()
    originals = [getattr(module, name) for module, name in functions]
    for (module, name), original in zip(functions, originals, strict=True):
        setattr(module, name, clock.timed(original))
    try:
        yield clock
    finally:
        for (module, name), original in zip(functions, originals, strict=True):
            setattr(module, name, original)
