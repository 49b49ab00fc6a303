"""Models that are loaded once per process and stay until they are closed."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")


class _Slot:
    """One cached object, and the lock under which it is made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.values: list[object] = []


_slots: dict[Hashable, _Slot] = {}
_slots_lock = threading.Lock()


def once_per_process(key: Hashable, factory: Callable[[], T]) -> T:
    """Return the object made by `factory` for `key`, making it on the first call only.

    Threads that ask for the same key at once wait for one factory call; other keys are not held up. A factory
    may ask for other keys. When it raises, nothing is kept and the next call tries again.

    Args:
        key: names the object and everything that decides what it is (role, weights digest, device).
        factory: makes the object. If the object has a method `close`, it is called by `close` and at exit.
    """
    with _slots_lock:
        slot = _slots.setdefault(key, _Slot())
    with slot.lock:
        if not slot.values:
            slot.values.append(factory())
        return cast(T, slot.values[0])


def close(key: Hashable) -> bool:
    """Close and forget the object of `key`; the next call of `once_per_process` makes a new one.

    Returns whether there was one.
    """
    with _slots_lock:
        slot = _slots.pop(key, None)
    if slot is None:
        return False
    with slot.lock:
        existed = bool(slot.values)
        while slot.values:
            closer = getattr(slot.values.pop(), "close", None)
            if callable(closer):
                closer()
    return existed


def close_all() -> None:
    """Close and forget every object of this process, the latest first. Runs by itself at exit."""
    for key in reversed(list(_slots)):
        close(key)


# MediaPipe's objects complain in their destructors when the interpreter ends before they are closed.
atexit.register(close_all)
