"""Models that nobody closes: collected at any moment they stop nothing, and at exit they leave no traceback.

Each program has a process of its own, which would otherwise hang where the test process collects.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

AT_EXIT = """
import sys
import numpy as np
from models.faces.mesh import FaceMesh
from models.faces.parsing import PersonSegmenter

mesh, segmenter, closed = FaceMesh(sys.argv[1]), PersonSegmenter(sys.argv[2]), PersonSegmenter(sys.argv[2])
segmenter.segment(np.zeros((32, 32, 3), np.uint8))
closed.close()
closed.close()
print("done")
"""

COLLECTED = """
import faulthandler
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

from models.faces.parsing import PersonSegmenter

HANGS = 30.0


class Collecting(ThreadPoolExecutor):
    # a collection inside `submit`, where the lock of all pools is held
    def _adjust_thread_count(self):
        gc.collect()
        super()._adjust_thread_count()


def cycle():
    owner = PersonSegmenter(sys.argv[2])
    owner.itself = owner
    return weakref.ref(owner), weakref.ref(owner._segmenter)


gc.disable()
cycle()  # MediaPipe's first import keeps the frames that it was made in, and what they hold
owner, task = cycle()
faulthandler.dump_traceback_later(HANGS, exit=True)
gc.collect()
assert owner() is None and task() is not None and task()._handle, "the task waits for its closing"
owner, second = cycle()
assert task() is None, "closed by the one after it, and free"
with Collecting(1) as pool:
    assert pool.submit(int).result() == 0
assert owner() is None and second()._handle
left = PersonSegmenter(sys.argv[2])
task = weakref.ref(left._segmenter)
del left
assert second() is None and task() is not None, "without a cycle, too"
faulthandler.cancel_dump_traceback_later()
print("done")
"""


@pytest.mark.parametrize("program", [AT_EXIT, COLLECTED], ids=["at exit", "collected"])
def test_models_that_nobody_closes(program: str, task_path: Path, segmenter_path: Path) -> None:
    command = [sys.executable, "-c", program, str(task_path), str(segmenter_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "Exception ignored" not in ended.stderr, ended.stderr
