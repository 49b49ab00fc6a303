"""Who is at work on a local lake: many may compute at once, but cleaning up wants the lake to itself.

A worker's data file exists some time before the commit that refers to it, and a running stage reads versions
that a clean-up would remove. So whoever computes holds a shared lock, and whoever removes files an
exclusive one. The operating system drops the locks of a killed process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from resources.lake.errors import LakeError, clear_read_errors, clear_storage_errors

if TYPE_CHECKING:
    from resources.lake.lake import Lake

LOCK_NAME = "work.lock"

P = ParamSpec("P")
R = TypeVar("R")


def works_on_lake(function: Callable[Concatenate[Lake, P], R]) -> Callable[Concatenate[Lake, P], R]:
    """Decorate a function that computes on the lake it is given first.

    It waits while somebody cleans up. A disk that refuses a write becomes a StorageRefused, a damaged file a
    LakeDamaged.
    """

    @functools.wraps(function)
    def wrapped(lake: Lake, *args: P.args, **kwargs: P.kwargs) -> R:
        with clear_storage_errors(lake.uri), clear_read_errors(lake.uri), _shared(lake):
            return function(lake, *args, **kwargs)

    return wrapped


@contextlib.contextmanager
def alone_on_lake(lake: Lake, purpose: str) -> Iterator[None]:
    """Have a local lake to oneself; `purpose` is the command that wants it.

    Raises LakeError while another process computes on the lake, and for a lake that is no local folder.
    """
    if not lake.is_local:
        raise LakeError(f"{lake.uri} is not a local folder; {purpose} needs one, since it removes files")
    with clear_storage_errors(lake.uri), (Path(lake.uri) / LOCK_NAME).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LakeError(
                f"another process is computing on {lake.uri}; wait for it to end or stop it, then run "
                f"`orchard {purpose}` again"
            ) from error
        yield


@contextlib.contextmanager
def _shared(lake: Lake) -> Iterator[None]:
    handle = _open(Path(lake.uri) / LOCK_NAME) if lake.is_local else None
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
