"""Who is at work on a lake: many may compute at once, one may ingest, and cleaning up wants it all to itself.

A worker's data file exists some time before the commit that refers to it, and a running stage reads versions
that a clean-up would remove. So whoever computes holds a shared lock, and whoever removes files an
exclusive one. In a folder the operating system drops the locks of a killed process; on an object store
leases stand in for them (`leases.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from resources.lake.errors import LakeError, clear_read_errors, clear_storage_errors
from resources.lake.leases import lease

if TYPE_CHECKING:
    from resources.lake.lake import Lake

LOCK_NAME = "work.lock"
INGEST_LOCK_NAME = "ingest.lock"
WORK, INGEST = "work", "ingest"
POLL_SECONDS = 0.2

P = ParamSpec("P")
R = TypeVar("R")


def works_on_lake(function: Callable[Concatenate[Lake, P], R]) -> Callable[Concatenate[Lake, P], R]:
    """Decorate a function that computes on the lake it is given first; see `at_work_on`."""

    @functools.wraps(function)
    def wrapped(lake: Lake, *args: P.args, **kwargs: P.kwargs) -> R:
        with at_work_on(lake):
            return function(lake, *args, **kwargs)

    return wrapped


@contextlib.contextmanager
def at_work_on(lake: Lake) -> Iterator[None]:
    """Compute on a lake: wait while somebody cleans up, and let nobody do so meanwhile.

    A disk that refuses a write becomes a StorageRefused, a damaged file a LakeDamaged.
    """
    with clear_storage_errors(lake.uri), clear_read_errors(lake.uri), _shared(lake):
        yield


@contextlib.contextmanager
def alone_on_lake(lake: Lake, purpose: str) -> Iterator[None]:
    """Have a lake to oneself; `purpose` is the command that wants it.

    Raises LakeError while another process computes on the lake.
    """
    busy = (
        f"another process is computing on {lake.uri}; wait for it to end or stop it, then run "
        f"`orchard {purpose}` again"
    )
    with clear_storage_errors(lake.uri), _alone(lake, WORK, LOCK_NAME, busy):
        yield


@contextlib.contextmanager
def one_ingest_at_a_time(lake: Lake, wait_seconds: float) -> Iterator[None]:
    """Hold the ingest lock: two ingests could append one photograph twice.

    Raises LakeError when another ingest is still running after `wait_seconds`.
    """
    busy = f"another ingest is running on {lake.uri}; wait for it to end, then run this again"
    with _alone(lake, INGEST, INGEST_LOCK_NAME, busy, wait_seconds):
        yield


@contextlib.contextmanager
def _alone(lake: Lake, name: str, file_name: str, busy: str, wait_seconds: float = 0.0) -> Iterator[None]:
    if not lake.is_local:
        with lease(lake.uri, name, "alone", busy, wait_seconds):
            yield
        return
    deadline = time.monotonic() + wait_seconds
    with (Path(lake.uri) / file_name).open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise LakeError(busy) from error
            time.sleep(POLL_SECONDS)
        yield


@contextlib.contextmanager
def _shared(lake: Lake) -> Iterator[None]:
    if not lake.is_local:
        with lease(lake.uri, WORK, "shared"):
            yield
        return
    handle = _open(Path(lake.uri) / LOCK_NAME)
    if handle is None:
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def _open(path: Path) -> IO[str] | None:
    """The lock file; None on a lake that cannot be written, where nothing can be removed either."""
    try:
        return path.open("a")
    except OSError:
        return path.open("r") if path.exists() else None
