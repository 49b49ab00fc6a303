"""Leases over a plain folder, which is a bucket to them: who waits, who is refused, who is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.lake import leases
from resources.lake.leases import LeaseBusy, LeaseLost, ensure_held, lease
from resources.lake.storage import Storage

HOLD = """
import sys, time
from resources.lake import leases
leases.RENEW_SECONDS = 0.2
with leases.lease(sys.argv[1], "work", sys.argv[2], ""):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(leases, "DEAD_AFTER_SECONDS", 3.0)
    monkeypatch.setattr(leases, "LOST_AFTER_SECONDS", 2.0)
    monkeypatch.setattr(leases, "WAIT_SECONDS", (0.01, 0.05))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path)


def objects(uri: str) -> list[str]:
    return [item.location for item in Storage.at(uri).files(leases.FOLDER)]


@pytest.fixture
def another_process(uri: str) -> Iterator[subprocess.Popen]:
    """A living process that shares the lock `work`."""
    command = [sys.executable, "-c", HOLD, uri, "shared"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_sharing_is_one_object_and_nothing_stays(uri: str) -> None:
    with lease(uri, "work", "shared"), lease(uri, "work", "shared"):
        assert len(objects(uri)) == 1
        with lease(uri, "ingest", "alone"):
            assert len(objects(uri)) == 2
    assert objects(uri) == []


def test_who_is_alive_keeps_others_out(uri: str, another_process: subprocess.Popen) -> None:
    with lease(uri, "work", "shared"):
        pass
    with (
        pytest.raises(LeaseBusy, match=rf"somebody is at work \(process {another_process.pid} on "),
        lease(uri, "work", "alone", "somebody is at work"),
    ):
        pass
    assert len(objects(uri)) == 1


def test_who_was_killed_is_waited_for_and_then_cleared_away(
    uri: str, another_process: subprocess.Popen
) -> None:
    another_process.send_signal(signal.SIGKILL)
    another_process.wait()
    started = time.monotonic()
    with lease(uri, "work", "alone"):
        assert time.monotonic() - started > leases.DEAD_AFTER_SECONDS - 0.5
        (mine,) = objects(uri)
        assert "/alone-" in mine


def test_waiting_ends_when_the_other_is_done(uri: str, another_process: subprocess.Popen) -> None:
    assert another_process.stdin is not None
    threading.Timer(1.0, lambda: another_process.communicate("\n")).start()
    with lease(uri, "work", "alone", "busy", wait_seconds=30):
        assert another_process.wait(10) == 0


def test_of_many_who_come_at_once_one_is_alone_at_a_time(uri: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            with lease(uri, "ingest", "alone", "busy", wait_seconds=60):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.02)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12


def test_sharers_wait_for_the_one_alone(uri: str) -> None:
    order: list[str] = []

    def share() -> None:
        with lease(uri, "work", "shared"):
            order.append("shared")

    with lease(uri, "work", "alone"):
        thread = threading.Thread(target=share)
        thread.start()
        time.sleep(0.5)
        order.append("alone")
    thread.join()
    assert order == ["alone", "shared"]


def test_who_stood_still_writes_no_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process wakes up after others may have taken its place."""
    with lease(uri, "ingest", "alone"):
        ensure_held(f"{uri}/faces.lance")
        real = time.time
        monkeypatch.setattr(leases.time, "time", lambda: real() + leases.LOST_AFTER_SECONDS + 1)
        with pytest.raises(LeaseLost, match=f"could not reach {uri} for more than 2 s"):
            ensure_held(f"{uri}/faces.lance")
        ensure_held(f"{uri}2/faces.lance")


def test_whose_lease_was_taken_away_writes_no_more(uri: str) -> None:
    with lease(uri, "ingest", "alone"):
        Storage.at(uri).remove(objects(uri)[0])
        time.sleep(0.5)
        assert objects(uri) == []
        with pytest.raises(LeaseLost):
            ensure_held(uri)


def test_a_stopped_process_is_taken_for_dead_and_notices(uri: str) -> None:
    program = HOLD.replace(
        "leases.RENEW_SECONDS = 0.2", "leases.RENEW_SECONDS = 0.2; leases.LOST_AFTER_SECONDS = 2.0"
    )
    program += "    leases.ensure_held(sys.argv[1])\n"
    command = [sys.executable, "-c", program, uri, "alone"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        os.kill(process.pid, signal.SIGSTOP)
        with lease(uri, "work", "alone", "busy", wait_seconds=10):
            os.kill(process.pid, signal.SIGCONT)
            _, errors = process.communicate("\n")
    assert process.returncode == 1
    assert "LeaseLost" in errors
