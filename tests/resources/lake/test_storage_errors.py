"""A disk that refuses writes: one clear error each, nothing lost, and the same command completes later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from resources.lake.errors import StorageRefused, clear_storage_errors
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

SCRIPT = Path(__file__).with_name("refused_writes.py")
PROJECT = Path(__file__).resolve().parents[3]


def large_photo(path: Path, seed: int) -> None:
    """A PNG of noise, about 120 kB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def tell(folder: Path, photo_tree: Path) -> Callable[[str], dict[str, list[str] | None]]:
    """A lake with the twelve photographs, new ones beside them, and what a crippled process says of it."""
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, photo_tree)
    lake.faces.ensure_columns([pa.field("note", pa.binary())])
    for index in range(2):
        large_photo(folder / "new" / f"n{index}" / "00.png", seed=index)

    def run(mode: str) -> dict[str, list[str] | None]:
        command = [sys.executable, str(SCRIPT), mode, lake.uri, str(folder / "new")]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def contents(lake: Lake) -> dict[str, bytes]:
    rows = lake.faces.snapshot().scan(["image_id", "image"]).to_pylist()
    return {row["image_id"]: row["image"] for row in rows}


def test_a_lake_that_may_only_be_read(tell: Callable, folder: Path) -> None:
    lake = Lake.open(folder / "lake")
    before, version = contents(lake), lake.faces.snapshot().version
    paths = [Path(lake.uri), *Path(lake.uri).rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        told = tell("owner")
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert told.pop("open and read") is None
    assert told
    for action, error in told.items():
        assert error is not None, action
        assert error[0] == "StorageRefused", (action, error)
        assert "may not write there" in error[1], action
        assert "--lake" in error[1], action
    assert lake.faces.snapshot().version == version
    assert contents(lake) == before


def test_a_disk_that_takes_no_more(tell: Callable, folder: Path) -> None:
    lake = Lake.open(folder / "lake")
    before, version = contents(lake), lake.faces.snapshot().version
    told = tell("size")
    assert told.pop("open and read") is None
    for action, error in told.items():
        assert error is not None, action
        assert error[0] == "StorageRefused", (action, error)
        assert "ulimit -f" in error[1], action
    assert lake.faces.snapshot().version == version
    assert contents(lake) == before
    report = ingest(lake, folder / "new")
    assert (report.added, report.unchanged) == (2, 0)
    assert len(contents(lake)) == 14
    lake.faces.snapshot().dataset.validate()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("LanceError(IO): No space left on device (os error 28), writer/structural.rs:254:9", "disk is full"),
        ("LanceError(IO): Disk quota exceeded (os error 122)", "quota"),
        ("LanceError(IO): Read-only file system (os error 30)", "mounted read-only"),
    ],
)
def test_what_lance_says_in_words_is_understood(text: str, remedy: str) -> None:
    with pytest.raises(StorageRefused, match=remedy), clear_storage_errors("a lake"):
        raise OSError(text)


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), clear_storage_errors("a lake"):
        raise FileNotFoundError(2, "No such file or directory")
