"""The child process of `isolation.py`: reads photographs from a socket, inspects them, answers, and may die.

Messages are a length of eight bytes and that many bytes. A question is a `Request` and the file's bytes, an
answer is a `Reply`. `READY` comes first, after a self-test: whatever kills the child before is no photograph.

Run as `python -m resources.photos.inspector_child DESCRIPTOR`; nothing but `isolation.py` should.
"""

from __future__ import annotations

import io
import resource
import signal
import socket
import struct
import sys
import time

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from resources.photos.decoding import DecodeLimits, PhotoFacts, inspect_photo
from resources.photos.reasons import Reason, RowError

READY = b"ready"
_LENGTH = struct.Struct(">Q")
_PIECE = 1 << 20


class Request(BaseModel):
    """What comes before the bytes of a photograph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: DecodeLimits = Field(description="What is accepted, CPU time and memory included.")
    size: int = Field(ge=0, description="Bytes of the photograph that follows.")


class Refusal(BaseModel):
    """A `RowError` on its way between processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(description="Value of the `Reason`.")
    detail: str = Field(description="What exactly was wrong.")


class Reply(BaseModel):
    """What was found out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: PhotoFacts | Refusal = Field(description="Facts of a sound photograph, or why it is refused.")


def send(link: socket.socket, message: bytes, deadline: float | None = None) -> None:
    """Send one message. Raises TimeoutError at the monotonic `deadline`, OSError when nobody listens."""
    link.settimeout(_left(deadline))
    link.sendall(_LENGTH.pack(len(message)))
    link.settimeout(_left(deadline))
    link.sendall(message)


def receive(link: socket.socket, deadline: float | None = None) -> bytes | None:
    """The next message; None when the other end closed instead. Raises as `send` does."""
    header = _exactly(link, _LENGTH.size, deadline)
    return None if header is None else _exactly(link, _LENGTH.unpack(header)[0], deadline)


def _exactly(link: socket.socket, size: int, deadline: float | None) -> bytes | None:
    buffer, filled = bytearray(size), 0
    while filled < size:
        link.settimeout(_left(deadline))
        count = link.recv_into(memoryview(buffer)[filled:], min(size - filled, _PIECE))
        if not count:
            return None
        filled += count
    return bytes(buffer)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def serve(link: socket.socket) -> None:
    """Answer questions until the other end closes."""
    send(link, READY)
    while (question := receive(link)) is not None:
        request = Request.model_validate_json(question)
        data = receive(link)
        if data is None or len(data) != request.size:
            return
        send(link, Reply(outcome=_inspect(data, request.limits)).model_dump_json().encode())


def _inspect(data: bytes, limits: DecodeLimits) -> PhotoFacts | Refusal:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = limits.max_memory if hard == resource.RLIM_INFINITY else min(limits.max_memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    # Counts CPU time, and its signal kills at once, in the midst of C code: Python's handler would wait.
    signal.setitimer(signal.ITIMER_PROF, limits.max_seconds)
    try:
        return inspect_photo(data, limits)
    except RowError as error:
        return Refusal(reason=error.reason.value, detail=error.detail)
    except MemoryError:
        return Refusal(reason=Reason.TOO_LARGE.value, detail=f"needs more than {memory} bytes of memory")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def self_test() -> None:
    """Encode and inspect a small picture of every format; a broken library shows itself here."""
    for image_format in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (90, 120, 30)).save(buffer, image_format)
        inspect_photo(buffer.getvalue())


def main() -> None:
    """Serve on the inherited socket whose descriptor is the one argument."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for sent_to_groups in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ending is the parent's business: a photograph must not be blamed for Ctrl-C or a shutdown.
        signal.signal(sent_to_groups, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a photograph that crashes leaves no copy of itself
    self_test()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link)


if __name__ == "__main__":
    main()
