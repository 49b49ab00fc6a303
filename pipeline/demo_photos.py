"""The demo's photographs: rendered people as files on disk, and two public-domain portraits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PEOPLE = 40
PHOTOS_PER_PERSON = 6
HELD_OUT_PEOPLE = 10
SWAP_PAIRS = 48
TRAIN_PAIRS = 480
"""Pairs of the other people whose exact swaps the recipe `supervised` learns; they are listed, not drawn."""
SIDE = 256


@dataclass(frozen=True)
class DemoPhotos:
    """Where the demo's files are."""

    rendered: Path
    portraits: Path
    swap_pairs: Path


def make_demo_photos(folder: Path) -> DemoPhotos:
    """Write whatever of the demo's files is missing; files that exist are left alone."""
    from models.worlds.portraits import write_portraits

    folder = folder.expanduser().resolve()
    write_portraits(
        folder,
        identities=PEOPLE,
        photos=PHOTOS_PER_PERSON,
        size=SIDE,
        swap_pairs=SWAP_PAIRS,
        held_out=HELD_OUT_PEOPLE,
        train_pairs=TRAIN_PAIRS,
    )
    portraits = folder / "portraits"
    portraits.mkdir(exist_ok=True)
    _copy_astronaut(portraits / "astronaut.png")
    _copy_hopper(portraits / "grace_hopper.jpg")
    return DemoPhotos(folder / "photos", portraits, folder / "swap_pairs.csv")


def _copy_astronaut(path: Path) -> None:
    """Eileen Collins, NASA, public domain; ships with scikit-image."""
    if path.exists():
        return
    import skimage.data

    source = Path(skimage.data.__file__).parent / "astronaut.png"
    shutil.copyfile(source, path)


def _copy_hopper(path: Path) -> None:
    """Grace Hopper, US Navy, public domain; ships with matplotlib."""
    if path.exists():
        return
    import matplotlib

    shutil.copyfile(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", path)
