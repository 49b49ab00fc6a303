from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.lake import failpoints
from resources.lake.failpoints import POINTS, VARIABLE, arm, crash_point, passes

ROOT = Path(failpoints.__file__).parents[2]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def test_a_point_that_is_not_armed_does_nothing() -> None:
    arm("after_commit:5")
    for _ in range(3):
        crash_point("before_write")
        crash_point("after_commit")
    assert passes() == {"after_commit": 3}


def test_the_variable_kills_at_the_pass_it_names() -> None:
    program = (
        "from resources.lake.failpoints import crash_point\n"
        "for step in range(5):\n"
        "    crash_point('before_event'); crash_point('mid_training'); print(step, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, VARIABLE: "before_event:9, mid_training:3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]


@pytest.mark.parametrize("text", ["nowhere", "after_commit:0", "after_commit:-1", "after_commit:soon"])
def test_a_wrong_setting_is_refused_and_names_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match=f"{VARIABLE}.*after_commit"):
        arm(text)


def test_every_point_stands_somewhere_and_nothing_else_does() -> None:
    called = set()
    for path in [
        *ROOT.glob("assets/**/*.py"),
        *ROOT.glob("resources/**/*.py"),
        *ROOT.glob("pipeline/**/*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "crash_point"
            ):
                assert isinstance(node.args[0], ast.Constant), f"{path} computes the name of a point"
                called.add(node.args[0].value)
    assert called == POINTS.keys()
