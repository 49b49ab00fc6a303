"""Photographs of unknown origin, inspected in a process of their own that may die without harm.

What counting can bound, `decoding.py` bounds by counting. What it cannot bound are faults of the libraries: a
decoder that loops, asks for all memory, or writes where it must not. So ingest hands the bytes to a child
process, which runs under a limit of CPU seconds (enforced by the kernel, inside C code too) and of address
space. A child that dies costs the one row that it worked on, and the next photograph gets a new child.

Later stages decode the stored bytes in their own process: these have been decoded once, under the limits.

The child is started on first use and serves until this process ends, since starting it costs more than most
photographs. CPU seconds, not wall seconds, are limited, so that a busy machine does not condemn a photograph;
the wall clock only catches a child that neither works nor answers.

What is told apart: a signal is the photograph's doing (`too_slow`, `decoder_died`). A child that cannot
start, fails its self-test, or ends with a Python error is our own fault: `IsolationError` stops the work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from resources.photos.decoding import DEFAULT_LIMITS, DecodeLimits, PhotoFacts
from resources.photos.inspector_child import READY, Reply, Request, receive, send
from resources.photos.reasons import Reason, RowError

START_SECONDS = 120.0
"""A child that says nothing for this long after its start is a fault of the machine or of ours."""

WALL_FACTOR = 10
"""Wall seconds granted per CPU second of `DecodeLimits.max_seconds`, ..."""

LEAST_WALL_SECONDS = 60.0
"""... and at least this many, since a busy machine may let a process wait."""

_IMPORT_ROOT = Path(__file__).resolve().parents[2]
_CHILD_SETTINGS = {
    # Threads that never run would fill the address space with their stacks.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # glibc: keep up to 64 MiB of freed memory; mapping it anew every time takes longer than decoding.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}


class IsolationError(RuntimeError):
    """The inspecting process does not work at all. No photograph is at fault, and none was quarantined."""


class Inspector:
    """One child process that inspects photographs, one at a time; started anew after every death.

    Attributes:
        deaths: how many children have died of a photograph.
    """

    def __init__(self) -> None:
        self.deaths = 0
        self._owner = os.getpid()
        self._child: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._child.pid if self._child is not None else None

    def inspect(self, data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> PhotoFacts:
        """What `decoding.inspect_photo` says, under limits of CPU time and memory too.

        Raises:
            RowError: as `inspect_photo` does; further `too_slow`, `too_large` (memory) and `decoder_died`.
            IsolationError: the child cannot be started, or fell over its own code.
        """
        try:
            reply = self._ask(data, limits)
        except BaseException:
            self.close()  # a half-sent question or an unread answer must not meet the next photograph
            raise
        if isinstance(reply.outcome, PhotoFacts):
            return reply.outcome
        raise RowError(Reason(reply.outcome.reason), reply.outcome.detail)

    def close(self) -> None:
        """End the child, if there is one; the next `inspect` starts another."""
        child, link = self._child, self._link
        self._child = self._link = None
        if link is not None:
            link.close()
        if child is not None and self._owner == os.getpid():
            child.kill()  # it holds nothing that an orderly exit would save
            child.wait()

    def _ask(self, data: bytes, limits: DecodeLimits) -> Reply:
        link = self._started()
        patience = max(LEAST_WALL_SECONDS, WALL_FACTOR * limits.max_seconds)
        deadline = time.monotonic() + patience
        try:
            send(link, Request(limits=limits, size=len(data)).model_dump_json().encode(), deadline)
            send(link, data, deadline)
            answer = receive(link, deadline)
        except TimeoutError:
            raise RowError(Reason.TOO_SLOW, f"no answer within {patience:g} seconds") from None
        except OSError:  # the child died while it was being written to
            answer = None
        if answer is None:
            raise self._death(limits)
        return Reply.model_validate_json(answer)

    def _death(self, limits: DecodeLimits) -> RowError:
        assert self._child is not None  # it was asked a moment ago
        code = self._child.wait()
        if code >= 0:
            raise IsolationError(
                f"the process that inspects photographs ended with {code}; its error stands above. No row "
                "was quarantined"
            )
        self.deaths += 1
        if -code == signal.SIGPROF:
            return RowError(Reason.TOO_SLOW, f"more than {limits.max_seconds:g} CPU seconds")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return RowError(Reason.DECODER_DIED, f"the decoder died of {name}")

    def _started(self) -> socket.socket:
        if self._link is not None and self._child is not None and self._child.poll() is None:
            return self._link
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            # -P, and no relative path: the current folder may be one of photographs, and must not be
            # imported from.
            paths = [str(_IMPORT_ROOT), *filter(os.path.isabs, sys.path)]
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "resources.photos.inspector_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_CHILD_SETTINGS, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._link = ours
        ready = None
        with contextlib.suppress(OSError):  # told below, with what the child itself said
            ready = receive(ours, time.monotonic() + START_SECONDS)
        if ready != READY:
            self.close()
            raise IsolationError(
                "the process that inspects photographs did not start; its error stands above. Run "
                "`orchard doctor`"
            )
        return ours


_lock = threading.Lock()
_shared: Inspector | None = None


def inspect_isolated(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> PhotoFacts:
    """`Inspector.inspect` by the one child of this process, for any thread. Raises as it does."""
    with _lock:
        return shared_inspector().inspect(data, limits)


def shared_inspector() -> Inspector:
    """The inspector of this process; a process that was forked from another gets its own."""
    global _shared
    if _shared is None or _shared._owner != os.getpid():
        _shared = Inspector()
        atexit.register(_shared.close)
    return _shared
