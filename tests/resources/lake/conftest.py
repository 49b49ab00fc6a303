from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resources.lake.lake import Lake


def write_photo(path: Path, seed: int, size: int = 48) -> Path:
    """A small JPEG that differs for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture
def photo_tree(tmp_path: Path) -> Path:
    """Three people with four photographs each, as identity folders."""
    root = tmp_path / "photos"
    for person in range(3):
        for shot in range(4):
            write_photo(root / f"p{person}" / f"{shot:02d}.jpg", seed=10 * person + shot)
    return root


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)
