"""The demo's photographs: rendered people to train on, the benchmark's pairs, two public-domain portraits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PEOPLE = 30
PHOTOS_PER_PERSON = 6
BENCHMARK_PAIRS = 96
"""Swaps are made of the first pairs of the benchmark, whose people nobody trains on."""
TRAIN_PAIRS = 480
"""Pairs of the other people whose exact swaps the recipe `supervised` learns; they are listed, not drawn."""
SIDE = 256


@dataclass(frozen=True)
class DemoPhotos:
    """Where the demo's files are: folders of photographs, and lists of pairs with known answers."""

    people: Path
    benchmark: Path
    portraits: Path
    swap_pairs: tuple[Path, ...]


def make_demo_photos(folder: Path) -> DemoPhotos:
    """Write whatever of the demo's files is missing; files that exist are left alone."""
    from models.worlds.benchmark_portraits import write_benchmark_portraits
    from models.worlds.portraits import write_portraits

    folder = folder.expanduser().resolve()
    people, benchmark = folder / "people", folder / "benchmark"
    write_portraits(
        people,
        identities=PEOPLE,
        photos=PHOTOS_PER_PERSON,
        size=SIDE,
        swap_pairs=0,
        held_out=1,
        train_pairs=TRAIN_PAIRS,
    )
    write_benchmark_portraits(benchmark, pairs=BENCHMARK_PAIRS, size=SIDE)
    portraits = folder / "portraits"
    portraits.mkdir(exist_ok=True)
    _copy_astronaut(portraits / "astronaut.png")
    _copy_hopper(portraits / "grace_hopper.jpg")
    lists = (people / "swap_pairs.csv", benchmark / "swap_pairs.csv")
    return DemoPhotos(people / "photos", benchmark / "photos", portraits, lists)


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
