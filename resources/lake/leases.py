"""Locks of a lake on an object store, which has none of its own: small objects that their owners keep fresh.

Whoever wants a lock looks whether somebody holds one against it, puts an object of its own, and looks again.
S3 shows every look all that was put before, so of two who come together at least one sees the other; whoever
sees somebody takes its own object away, waits a random moment and begins anew. An owner writes its object
again every few seconds. One that was not written for a minute of the onlooker's own time is dead: no clock is
ever compared with another machine's.

An owner that stood still so long that it may have been taken for dead must not write any more: `ensure_held`
is asked before every commit and every removal.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from resources.lake.errors import LakeError
from resources.lake.storage import Storage

FOLDER = "leases"
RENEW_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0
LOST_AFTER_SECONDS = 40.0
"""An owner gives up this long after its last renewal, well before others may take it for dead."""

WAIT_SECONDS = (0.2, 1.0)
"""A random time between two looks, so that two who refuse each other do not do so for ever."""

Mode = Literal["shared", "alone"]


class LeaseLost(LakeError):
    """This process stood still, or was cut off from the store, so long that others may be in its place."""


class LeaseBusy(LakeError):
    """Somebody else holds the lock and is alive."""


@dataclass
class _Held:
    """A lease of this process: renewed by a thread of its own until it is released."""

    uri: str
    storage: Storage
    location: str
    content: bytes
    renewed: tuple[float, float] = (0.0, 0.0)
    users: int = 0
    process: int = field(default_factory=os.getpid)
    released: threading.Event = field(default_factory=threading.Event)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def put(self) -> None:
        now = _now()  # the time before writing: the store may have the object for longer, never for shorter
        self.storage.write(self.location, self.content)
        self.renewed = now

    @property
    def lost(self) -> bool:
        # monotonic time stands still while a laptop sleeps, the wall clock may be set back: so both are asked
        return max(a - b for a, b in zip(_now(), self.renewed, strict=True)) > LOST_AFTER_SECONDS

    def keep_fresh(self) -> None:
        while not self.released.wait(RENEW_SECONDS) and not self.lost:
            # when the store is away, `lost` says when that has become too long
            with contextlib.suppress(OSError), self.writing:
                if self.released.is_set():
                    return
                if not self.storage.exists(self.location):
                    self.renewed = (-math.inf, -math.inf)  # somebody took it away
                    return
                self.put()


_held: dict[str, _Held] = {}
"""Every lease of this process, by location."""

_sharing: defaultdict[tuple[str, str, int], threading.Lock] = defaultdict(threading.Lock)
"""Taken while a shared lease is got or given back; whoever holds one alone never waits for it."""


@contextlib.contextmanager
def lease(uri: str, name: str, mode: Mode, busy: str = "", wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock on the lake at `uri`: `alone`, or `shared` with others that are content with that.

    Nested and parallel shared uses in one process are one lease. Sharing waits until nobody has the lock
    alone.

    Raises LeaseBusy with the text `busy` and the owner when somebody who is alive stands against having it
    alone for more than `wait_seconds`; to see that takes one renewal, and the dead are waited for a minute.
    """
    if mode == "alone":
        held = _acquire(uri, name, mode, busy, wait_seconds)
        try:
            yield
        finally:
            _release(held)
        return
    with _sharing[uri, name, os.getpid()]:
        held = _shared_already(uri, name) or _acquire(uri, name, mode, busy, wait_seconds)
        held.users += 1
    try:
        yield
    finally:
        with _sharing[uri, name, os.getpid()]:
            held.users -= 1
            if not held.users:
                _release(held)


def ensure_held(uri: str) -> None:
    """Raise LeaseLost when a lease of this process on the lake that `uri` lies in may be another's by now."""
    for held in list(_held.values()):
        if held.lost and held.process == os.getpid() and f"{uri}/".startswith(f"{held.uri}/"):
            raise LeaseLost(
                f"this process stood still or could not reach {held.uri} for more than "
                f"{LOST_AFTER_SECONDS:.0f} s, so others may be at work there; what was not committed is "
                "dropped, run the same command again"
            )


def _acquire(uri: str, name: str, mode: Mode, busy: str, wait_seconds: float) -> _Held:
    storage = Storage.at(uri)
    deadline = time.monotonic() + wait_seconds
    owner = {"host": socket.gethostname(), "process": os.getpid(), "mode": mode}
    content = json.dumps(owner).encode()
    seen: dict[str, tuple[float, float]] = {}
    while True:
        others = _against(storage, name, mode)
        if not others:
            held = _Held(uri, storage, f"{FOLDER}/{name}/{mode}-{uuid.uuid4().hex}", content)
            held.put()
            others = _against(storage, name, mode, but=held.location)
            if not others:
                _held[held.location] = held
                threading.Thread(target=held.keep_fresh, daemon=True).start()
                return held
            storage.remove(held.location)
        for location, written in others.items():
            first, since = seen.setdefault(location, (written, time.monotonic()))
            if written != first and mode == "alone" and time.monotonic() > deadline:
                raise LeaseBusy(f"{busy} ({_owner(storage, location)})")
            if written != first:
                seen[location] = (written, time.monotonic())
            elif time.monotonic() - since > DEAD_AFTER_SECONDS:
                storage.remove(location)
        time.sleep(random.uniform(*WAIT_SECONDS))


def _shared_already(uri: str, name: str) -> _Held | None:
    start = f"{FOLDER}/{name}/shared-"
    mine = [item for item in list(_held.values()) if item.uri == uri and item.process == os.getpid()]
    return next((item for item in mine if item.location.startswith(start)), None)


def _release(held: _Held) -> None:
    held.released.set()
    del _held[held.location]
    with held.writing:  # a renewal that is under way must not bring it back
        held.storage.remove(held.location)


def _against(storage: Storage, name: str, mode: Mode, but: str = "") -> dict[str, float]:
    """When each lease that stands against this mode was last written, by location."""
    found = [item for item in storage.files(f"{FOLDER}/{name}") if item.location != but]
    if mode == "shared":
        found = [item for item in found if item.location.rpartition("/")[2].startswith("alone-")]
    return {item.location: item.written for item in found}


def _owner(storage: Storage, location: str) -> str:
    try:
        owner = json.loads(storage.read(location))
    except FileNotFoundError:
        return "it has just ended"
    return f"process {owner['process']} on {owner['host']}"


def _now() -> tuple[float, float]:
    return time.monotonic(), time.time()
