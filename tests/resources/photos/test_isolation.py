"""The inspecting process: same answers, limits that bite, and deaths that cost one photograph each."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from resources.photos import isolation
from resources.photos.decoding import DecodeLimits, inspect_photo
from resources.photos.isolation import Inspector, IsolationError, inspect_isolated, shared_inspector
from resources.photos.reasons import Reason, RowError

Broken = Mapping[str, tuple[bytes, Reason]]
Good = Mapping[str, bytes]


@pytest.fixture
def inspector() -> Iterator[Inspector]:
    made = Inspector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def long_work() -> bytes:
    """A sound grey PNG of 16 megapixels: much decoding in 16 kB."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4000, 4000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(4001 * 4000), 6)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def refusal(inspector: Inspector, data: bytes, limits: DecodeLimits | None = None) -> RowError:
    with pytest.raises(RowError) as caught:
        inspector.inspect(data, limits or DecodeLimits())
    return caught.value


def test_the_answers_are_those_of_a_decode_in_this_process(
    inspector: Inspector, good_photos: Good, broken_photos: Broken
) -> None:
    for data in good_photos.values():
        assert inspector.inspect(data) == inspect_photo(data)
    for name, (data, reason) in broken_photos.items():
        with pytest.raises(RowError) as here:
            inspect_photo(data)
        there = refusal(inspector, data)
        assert (there.reason, there.detail) == (reason, here.value.detail), name
    assert inspector.deaths == 0


def test_too_much_time_kills_the_child_and_costs_one_photograph(
    inspector: Inspector, good_photos: Good, long_work: bytes
) -> None:
    error = refusal(inspector, long_work, DecodeLimits(max_seconds=0.02))
    assert (error.reason, error.detail) == (Reason.TOO_SLOW, "more than 0.02 CPU seconds")
    assert inspector.deaths == 1
    assert inspector.inspect(good_photos["plain.png"]).width == 160
    assert inspector.inspect(long_work).width == 4000
    assert inspector.deaths == 1


def test_too_much_memory_is_refused_and_the_child_lives_on(
    inspector: Inspector, good_photos: Good, long_work: bytes
) -> None:
    inspector.inspect(good_photos["plain.png"])
    child = inspector.pid
    assert child is not None
    used = psutil.Process(child).memory_info().vms
    error = refusal(inspector, long_work, DecodeLimits(max_memory=used + 8 * 2**20))
    assert error.reason is Reason.TOO_LARGE
    assert "bytes of memory" in error.detail
    assert inspector.inspect(long_work).width == 4000
    assert inspector.pid == child


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_in_the_midst_of_decoding_costs_one_photograph(
    inspector: Inspector, good_photos: Good, long_work: bytes, name: str
) -> None:
    inspector.inspect(good_photos["plain.png"])
    child = inspector.pid
    assert child is not None
    threading.Thread(target=_strike, args=(child, signal.Signals[name])).start()
    error = refusal(inspector, long_work)
    assert (error.reason, error.detail) == (Reason.DECODER_DIED, f"the decoder died of {name}")
    assert inspector.inspect(good_photos["baseline.jpg"]).format == "JPEG"
    assert inspector.pid != child


def _strike(child: int, how: signal.Signals) -> None:
    """Send the signal once the child is at work: its memory has grown by half the picture."""
    process, before = psutil.Process(child), psutil.Process(child).memory_info().rss
    while process.memory_info().rss < before + 8_000_000:
        time.sleep(0.002)
    os.kill(child, how)


def test_a_child_that_stands_still_is_given_up(
    inspector: Inspector, good_photos: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "LEAST_WALL_SECONDS", 0.4)
    inspector.inspect(good_photos["plain.png"])
    child = inspector.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    error = refusal(inspector, good_photos["plain.png"], DecodeLimits(max_seconds=0.05))
    assert (error.reason, error.detail) == (Reason.TOO_SLOW, "no answer within 0.5 seconds")
    assert not psutil.pid_exists(child)
    assert inspector.inspect(good_photos["plain.png"]).width == 160


def test_a_child_that_died_idle_is_nobodys_fault(inspector: Inspector, good_photos: Good) -> None:
    inspector.inspect(good_photos["plain.png"])
    child = inspector.pid
    assert child is not None
    os.kill(child, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(child)], timeout=0.2)
    assert inspector.inspect(good_photos["plain.png"]).width == 160
    assert inspector.deaths == 0


def test_signals_to_the_whole_group_do_not_reach_a_photograph(
    inspector: Inspector, good_photos: Good
) -> None:
    inspector.inspect(good_photos["plain.png"])
    child = inspector.pid
    assert child is not None
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, name)
    assert inspector.inspect(good_photos["plain.png"]).width == 160
    assert inspector.pid == child


def test_a_child_that_cannot_start_stops_the_work(
    inspector: Inspector, good_photos: Good, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "__init__.py").write_text("raise ImportError('a broken installation')\n")
    monkeypatch.setattr(isolation, "_IMPORT_ROOT", tmp_path)
    with pytest.raises(IsolationError, match="did not start"):
        inspector.inspect(good_photos["plain.png"])


def test_nothing_is_imported_from_the_folder_one_stands_in(
    inspector: Inspector, good_photos: Good, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert inspector.inspect(good_photos["plain.png"]).width == 160


def test_one_child_serves_all_threads_of_a_process(good_photos: Good) -> None:
    found: list[int] = []
    work = [good_photos["plain.png"], good_photos["rotated.jpg"]] * 10
    threads = [
        threading.Thread(target=lambda data=data: found.append(inspect_isolated(data).orientation))
        for data in work
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1] * 10 + [6] * 10
    assert shared_inspector() is shared_inspector()


FORKING = """
import os, sys
from pathlib import Path
from resources.photos.isolation import inspect_isolated, shared_inspector
data = Path(sys.argv[1]).read_bytes()
inspect_isolated(data)
ours = shared_inspector().pid
if (forked := os.fork()) == 0:
    inspect_isolated(data)
    theirs = shared_inspector().pid
    shared_inspector().close()
    os._exit(0 if theirs != ours else 1)
assert os.waitpid(forked, 0)[1] == 0
assert inspect_isolated(data).width == 160
assert shared_inspector().pid == ours
"""


def test_a_forked_process_gets_a_child_of_its_own(good_photos: Good, tmp_path: Path) -> None:
    photo = tmp_path / "plain.png"
    photo.write_bytes(good_photos["plain.png"])
    # In a process without threads: forking this one, which has some, might lock up.
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(photo)],
        cwd=Path(isolation.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
