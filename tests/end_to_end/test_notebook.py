"""The notebook: it runs from top to bottom, explains every argument, and its committed output is its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from models.diffface.roles import NETWORK_ROLES
from models.diffface.settings import DiffFaceSettings
from resources.weights.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "diffface.ipynb"
LARGEST = 1_000_000
SIZES = {
    "PAIRS = 2": "PAIRS = 1",
    "STEPS = 20": "STEPS = 4",
    "--masking_threshold 60 --iterations_num 2": (
        "--masking_threshold 6 --iterations_num 1 --timestep_respacing 10 --skip_timesteps 2"
    ),
}
"""What is made smaller here: the committed output is of the full sizes."""

OF_THE_PROGRAM = list(DiffFaceSettings.model_fields)[:13]
KIND = {"image/png": "picture", "text/plain": "text"}


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def kinds(cell: NotebookNode) -> list[str]:
    """What a cell shows: pictures and text, in order; pieces of one stream count once."""
    found: list[str] = []
    for output in cell.outputs:
        kind = "text" if output.output_type == "stream" else KIND[next(iter(output.data))]
        if kind == "picture" or found[-1:] != ["text"]:
            found.append(kind)
    return found


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs_and_shows_what_the_committed_one_shows(committed: NotebookNode, tmp_path: Path) -> None:
    source = NOTEBOOK.read_text(encoding="utf-8")
    for full, small in SIZES.items():
        assert source.count(full) == 1
        source = source.replace(full, small)
    copy = tmp_path / "notebooks" / NOTEBOOK.name
    copy.parent.mkdir()
    copy.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "notebook.py"), str(copy)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = code_cells(nbformat.read(copy, as_version=4))
    kept = code_cells(committed)
    assert [kinds(cell) for cell in made] == [kinds(cell) for cell in kept]
    assert [cell.execution_count for cell in kept] == list(range(1, len(kept) + 1))
    assert {path.name for path in copy.parent.iterdir()} == {NOTEBOOK.name}  # nothing is left beside it


def test_a_cell_that_fails_is_told_and_the_notebook_stays(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)\nraise ValueError('no')")])
    path = tmp_path / "broken.ipynb"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "notebook.py"), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert path.read_bytes() == before


def test_every_argument_of_the_program_has_a_section_with_its_default(committed: NotebookNode) -> None:
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    headings = "\n".join(re.findall(r"^### (.+)$", text, re.MULTILINE))
    defaults = DiffFaceSettings()
    for name in OF_THE_PROGRAM:
        value = getattr(defaults, name)
        if name.startswith("output_"):
            assert f"`{name}`" in headings
            continue
        told = "off" if value is False else f"{value:g}" if isinstance(value, float) else str(value)
        assert re.search(rf"`{name}` \({told}\)", headings), name


def test_its_output_is_of_the_shipped_denoiser_and_small(committed: NotebookNode) -> None:
    assert NOTEBOOK.stat().st_size < LARGEST
    told = "".join(
        output.text for cell in code_cells(committed) for output in cell.outputs if "text" in output
    )
    digest = resolve(NETWORK_ROLES["world"].denoiser).sha256[:12]
    assert f"denoiser {digest}" in told, "run it anew: python tools/notebook.py"
    assert "error" not in {output.output_type for cell in code_cells(committed) for output in cell.outputs}
