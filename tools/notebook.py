"""Run notebooks from top to bottom and write their output into them: `python tools/notebook.py [FILE ...]`.

Without files, all of `notebooks/`. Cells run in a fresh kernel of this Python, in the notebook's own folder.
The first error ends a notebook, which then stays as it was, and the exit code is 1. What differs between two
runs for no reason (times, counts of earlier runs) is not written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
CELL_SECONDS = 3600
"""Longest time of one cell; a crowded machine may need many times what an idle one does."""


def execute(path: Path) -> None:
    """Run one notebook in place. Raises CellExecutionError, and writes nothing, where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # `orchard` is looked for beside the interpreter, whether or not its environment is activated
    commands = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([commands, os.environ.get("PATH", os.defpath)])
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # the kernel adds its own version
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":  # commands write to a terminal, whose lines end otherwise
                output.text = output.text.replace("\r\n", "\n")
            if "image/png" in output.get("data", {}):
                # no second picture of the same, and no words on where it lay in memory
                output["data"] = {"image/png": output["data"]["image/png"]}
    nbformat.write(notebook, path)


def main(arguments: list[str]) -> int:
    """Run every notebook; the exit code."""
    for path in map(Path, arguments or sorted(map(str, (ROOT / "notebooks").glob("*.ipynb")))):
        begun = time.monotonic()
        try:
            execute(path.resolve())
        except CellExecutionError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
        print(f"{path}: {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
