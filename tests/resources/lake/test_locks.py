"""Who waits for whom: workers share a lake, a clean-up has it alone, a killed process holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resources.lake.errors import LakeDamaged, LakeError
from resources.lake.lake import Lake
from resources.lake.locks import LOCK_NAME, alone_on_lake, works_on_lake

HOLD = """
import fcntl, sys, time
handle = open(sys.argv[1], "a")
fcntl.flock(handle, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(60)
"""


def test_a_worker_waits_until_the_clean_up_is_done(lake: Lake) -> None:
    order: list[str] = []
    asked = threading.Event()

    @works_on_lake
    def work(lake: Lake) -> None:
        order.append("worked")

    def start() -> None:
        asked.set()
        work(lake)

    with alone_on_lake(lake, "gc"):
        worker = threading.Thread(target=start)
        worker.start()
        asked.wait()
        worker.join(timeout=0.3)
        assert worker.is_alive()
        order.append("cleaned")
    worker.join(timeout=10)
    assert order == ["cleaned", "worked"]


def test_workers_do_not_wait_for_each_other(lake: Lake) -> None:
    @works_on_lake
    def inner(lake: Lake) -> int:
        return 1

    @works_on_lake
    def outer(lake: Lake) -> int:
        return inner(lake) + 1

    assert outer(lake) == 2


def test_a_worker_of_another_process_keeps_the_clean_up_out_until_it_is_killed(lake: Lake) -> None:
    command = [sys.executable, "-c", HOLD, str(Path(lake.uri) / LOCK_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == "held"
        with (
            pytest.raises(LakeError, match=r"another process is computing .* `orchard gc` again"),
            alone_on_lake(lake, "gc"),
        ):
            pass
        worker.send_signal(signal.SIGKILL)
    with alone_on_lake(lake, "gc"):
        pass


def test_what_lance_says_of_a_damaged_file_names_the_remedy(lake: Lake) -> None:
    @works_on_lake
    def read(lake: Lake) -> None:
        raise OSError("LanceError(IO): failed to fill whole buffer")

    @works_on_lake
    def stumble(lake: Lake) -> None:
        raise ValueError("something else")

    with pytest.raises(LakeDamaged, match="orchard repair"):
        read(lake)
    with pytest.raises(ValueError, match="something else"):
        stumble(lake)
