"""The benchmark's photographs as portraits to ingest: identity folders, truths, pairs and parameters."""

from __future__ import annotations

from pathlib import Path

from models.worlds.benchmark import BenchmarkPairs, benchmark_pairs
from models.worlds.parameters import ATTRIBUTE_NAMES, IDENTITY_NAMES
from models.worlds.portraits import PortraitSet, SwapPair, WorldFile, numbers, write_world_files
from models.worlds.world import WORLD_VERSION


def pair_names(row: int) -> tuple[str, str]:
    """Image ids of the source and the target photograph of the benchmark's pair number `row`, from 0."""
    return f"b{row + 1:04d}s/source", f"b{row + 1:04d}t/target"


def benchmark_world(pairs: BenchmarkPairs, size: int) -> WorldFile:
    """Describe the photographs of pairs, `size` pixels square: everyone in them is photographed once."""
    people = {"s": pairs.sources.values, "t": pairs.targets.values}
    attributes = (pairs.source_attributes.values, pairs.target_attributes.values)
    names = [pair_names(row) for row in range(len(pairs))]
    return WorldFile(
        world_version=WORLD_VERSION,
        seed=pairs.seed,
        size=size,
        identity_parameters=IDENTITY_NAMES,
        attribute_parameters=ATTRIBUTE_NAMES,
        identities={
            f"b{row + 1:04d}{side}": numbers(values[row])
            for side, values in people.items()
            for row in range(len(pairs))
        },
        photos={
            image_id: numbers(values[row])
            for row, ids in enumerate(names)
            for image_id, values in zip(ids, attributes, strict=True)
        },
        swap_pairs=tuple(
            SwapPair(source=source, target=target, truth=f"truth/{row + 1:04d}.png")
            for row, (source, target) in enumerate(names)
        ),
    )


def write_benchmark_portraits(root: Path, *, pairs: int, size: int = 256) -> PortraitSet:
    """Write what is missing of the benchmark's first `pairs` pairs, and return the whole set.

    Raises `ValueError` when `root` already holds the world file of other photographs.
    """
    return write_world_files(root, benchmark_world(benchmark_pairs(pairs), size))
