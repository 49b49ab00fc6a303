"""Closing MediaPipe tasks that are still open when the interpreter exits.

A task passes every native call, closing included, to a thread pool. Python stops all thread pools before it
runs `atexit` functions and destructors, so a task closed there fails and prints a traceback over the result
of a command that went well. One that the collector of cycles takes away together
with its pool would wait for ever: the pool's thread is dismissed before the destructor asks it to close.
"""

import functools
import threading
import weakref
from typing import Protocol


class Closable(Protocol):
    """What can be closed, and closed again without harm."""

    def close(self) -> None:
        """Free what is held."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_before_exit(task: Closable, owner: object) -> None:
    """Close `task` when its one owner is collected, or when the main thread ends.

    Until then the task is held from here, out of every cycle; it must hold no reference to `owner`.
    """
    _register()
    _open.add(task)
    weakref.finalize(owner, task.close).atexit = False


@functools.cache
def _register() -> None:
    # Imported first, so that its own hook is the older one: hooks run from the newest to the oldest.
    import concurrent.futures.thread  # noqa: F401

    # The only hook that runs while thread pools still work; `concurrent.futures` uses it itself.
    threading._register_atexit(_close_all)  # pyright: ignore[reportAttributeAccessIssue] - not in typeshed


def _close_all() -> None:
    for task in list(_open):
        task.close()
