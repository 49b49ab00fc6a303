"""Closing MediaPipe tasks that nobody closed: never while Python collects, and before the interpreter exits.

A task passes every native call, closing included, to a thread pool of its own and waits. Two moments forbid
that. Python stops all thread pools before it runs `atexit` functions and destructors, so a task closed there
fails and prints a traceback over the result of a command that went well. And the collector of cycles runs
anywhere: it dismisses the thread of a pool that it takes away before it calls the task's destructor, which
then waits for ever; and where it runs inside `submit` of any pool, a lock that all pools share is held.
"""

import functools
import queue
import threading
import weakref
from typing import Protocol


class Closable(Protocol):
    """What can be closed, and closed again without harm."""

    def close(self) -> None:
        """Free what is held."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_orphans: queue.SimpleQueue[Closable] = queue.SimpleQueue()
"""Tasks whose owner is gone; `put` is the one thing that may be done at any moment."""


def close_after_owner(task: Closable, owner: object) -> None:
    """Close `task` after its one owner is gone: when the next task comes here, or when the main thread ends.

    Until then the task is held from here, out of every cycle; it must hold no reference to `owner`.
    """
    _register()
    _close_orphans()
    _open.add(task)
    weakref.finalize(owner, _orphans.put, task).atexit = False


def _close_orphans() -> None:
    while True:
        try:
            _orphans.get_nowait().close()
        except queue.Empty:
            return


@functools.cache
def _register() -> None:
    # Imported first, so that its own hook is the older one: hooks run from the newest to the oldest.
    import concurrent.futures.thread  # noqa: F401

    # The only hook that runs while thread pools still work; `concurrent.futures` uses it itself.
    threading._register_atexit(_close_all)  # pyright: ignore[reportAttributeAccessIssue] - not in typeshed


def _close_all() -> None:
    for task in list(_open):
        task.close()
