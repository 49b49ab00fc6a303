"""The photographs of a round: training people of its own, and the benchmark's pairs as a folder to ingest."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path

from PIL import Image

from benches.leaderboard.plan import WORLD_SEED, Plan
from models.worlds.benchmark import BenchmarkPairs, benchmark_pairs
from models.worlds.benchmark_portraits import benchmark_world
from models.worlds.portraits import write_portraits
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.photos.pairs import read_swap_pairs

SHARD_SIZE = 256
_BATCH = 32


def fill_lake(lake: Lake, work: Path, plan: Plan, seed: int) -> None:
    """Write and ingest the training people of a seed and the benchmark, with both lists of pairs."""
    people = work / f"people-{seed}"
    write_portraits(
        people,
        identities=plan.people,
        photos=plan.photos,
        size=plan.photo_size,
        swap_pairs=0,
        held_out=1,
        train_pairs=plan.train_pairs,
        seed=WORLD_SEED + seed,
    )
    _ingest(lake, people, benchmark_folder(work, plan.pairs, plan.photo_size))


def fill_with_benchmark(lake: Lake, work: Path, pairs: int, size: int) -> None:
    """Write and ingest the benchmark alone."""
    _ingest(lake, benchmark_folder(work, pairs, size))


def _ingest(lake: Lake, *folders: Path) -> None:
    listed = []
    for folder in folders:
        ingest(lake, folder / "photos", consent=Consent.SYNTHETIC, shard_size=SHARD_SIZE)
        listed += read_swap_pairs(folder / "swap_pairs.csv")
    store_swap_pairs(lake, swap_pair_rows(listed))


def benchmark_folder(work: Path, pairs: int, size: int) -> Path:
    """A folder of the benchmark's photographs, truths, list and parameters; written whole or not at all.

    Two processes may ask for it at the same time: one of them is too late, and takes the other's.
    """
    folder = work / f"benchmark-{pairs}-{size}"
    if not folder.exists():
        unfinished = work / f".{folder.name}-{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_benchmark(unfinished, benchmark_pairs(pairs), size)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(unfinished)
    return folder


def _write_benchmark(root: Path, pairs: BenchmarkPairs, size: int) -> None:
    world = benchmark_world(pairs, size)
    listed = world.swap_pairs
    for first in range(0, len(pairs), _BATCH):
        part = pairs[first : first + _BATCH]
        rendered = (part.source_photos(size), part.target_photos(size), part.truths(size))
        for offset in range(len(part)):
            pair = listed[first + offset]
            places = (f"photos/{pair.source}.png", f"photos/{pair.target}.png", pair.truth)
            for place, pictures in zip(places, rendered, strict=True):
                path = root / place
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pictures[offset]).save(path)
    (root / "world.json").write_text(world.model_dump_json(indent=1) + "\n", encoding="utf-8")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("source", "target", "truth"))
    writer.writerows((pair.source, pair.target, pair.truth) for pair in listed)
    (root / "swap_pairs.csv").write_text(table.getvalue(), encoding="utf-8")
