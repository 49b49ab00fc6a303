"""Programs that never close their models end without a traceback."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
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


def test_open_models_are_closed_at_exit(task_path: Path, segmenter_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", PROGRAM, str(task_path), str(segmenter_path)]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0
    assert ended.stdout == "done\n"
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "Exception ignored" not in ended.stderr, ended.stderr
