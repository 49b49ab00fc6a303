"""The benchmark on disk: pictures that any program can swap, and the manifest that says which they are.

    root/sources/0001.png    whose face it is
    root/targets/0001.png    the photograph that it goes into
    root/pairs.csv           pair,source,target
    root/benchmark.json      seed, number of pairs, size, versions and hash: all that scoring needs
    root/README.md           what to do

With truths also, all of the exact answer: `truth/` (pictures), `masks/` (the visible face, 255 inside),
`parsing/` (CelebAMask-HQ classes), `depth/` (float32 arrays, face units towards the camera, NaN off the head)
and `landmarks.json` (68 points and ten iris points by pair, pixels).
A picture that exists is never written again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.worlds.benchmark import (
    BENCHMARK_PAIRS,
    BENCHMARK_SEED,
    BENCHMARK_VERSION,
    HASH_DIGITS,
    BenchmarkPairs,
    benchmark_hash,
    benchmark_pairs,
)
from models.worlds.world import WORLD_VERSION, render

MANIFEST: Final = "benchmark.json"
SMALLEST_SIZE: Final = 32

_BATCH: Final = 32

_README: Final = """# Orchard's face-swapping benchmark

{pairs} pairs of rendered people who do not exist. Results are comparable under the same hash: `{digits}`.

1. For each line of `pairs.csv`, put the face of the person in `sources/` into the photograph in `targets/`:
   who it is comes from the source; head pose, expression, gaze, light, skin tone, make-up, glasses, hair and
   background stay those of the target.
2. Save the result under the target's file name in a folder `results/` here: PNG, JPEG or WebP, square, the
   frame of the whole target, of any size; it is resized to {size} px for scoring.
3. `orchard bench score DIR`, where DIR is this folder. A pair without a result is an error.

Nobody in here may be part of training data, nor other pictures rendered from seed {seed}.
"""


class BenchmarkManifest(BaseModel):
    """The content of `benchmark.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark_version: str = Field(description="Version of the rule that makes pairs of a seed.")
    world_version: str = Field(description="Version of the renderer.")
    seed: int = Field(ge=0, description="Seed of people, photographs and candidates.")
    pairs: int = Field(gt=0, description="Number of pairs.")
    size: int = Field(ge=SMALLEST_SIZE, description="Width and height of the pictures, pixels.")
    hash: str = Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 of parameters and pixels (`benchmark_hash`)."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pairs, which are the names of their files without the ending."""
        return tuple(f"{pair + 1:04d}" for pair in range(self.pairs))

    @property
    def digits(self) -> str:
        """The first digits of the hash, as tables print it."""
        return self.hash[:HASH_DIGITS]

    def checked_pairs(self) -> BenchmarkPairs:
        """The pairs that this manifest means, after their hash was computed again.

        Raises:
            ValueError: this program makes other pairs or renders other pixels.
        """
        here = {"benchmark_version": BENCHMARK_VERSION, "world_version": WORLD_VERSION}
        for name, version in here.items():
            if getattr(self, name) != version:
                raise ValueError(
                    f"{MANIFEST} has {name} {getattr(self, name)!r}, this Orchard has {version!r}: score "
                    "with the Orchard that wrote it, or write the benchmark anew and swap again"
                )
        pairs = benchmark_pairs(self.pairs, self.seed)
        found = benchmark_hash(pairs)
        if found != self.hash:
            raise ValueError(
                f"{MANIFEST} has the hash {self.digits}, seed {self.seed} and {self.pairs} pairs give "
                f"{found[:HASH_DIGITS]} here: the file was changed, or this machine rounds pixels otherwise; "
                "either way the scores would not be comparable"
            )
        return pairs


def write_benchmark(
    root: Path,
    *,
    pairs: int = BENCHMARK_PAIRS,
    size: int = 256,
    seed: int = BENCHMARK_SEED,
    with_truth: bool = False,
) -> BenchmarkManifest:
    """Write the missing files of a benchmark folder.

    Args:
        root: the folder; made if missing.
        pairs: number of pairs.
        size: width and height of the pictures, pixels, at least 32.
        seed: seed of the benchmark; another than the default is another benchmark.
        with_truth: also write the exact answers and their annotations.

    Raises:
        ValueError: numbers out of range, or `root` holds another benchmark.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"the benchmark's pictures have at least {SMALLEST_SIZE} px, not {size}")
    drawn = benchmark_pairs(pairs, seed)
    manifest = BenchmarkManifest(
        benchmark_version=BENCHMARK_VERSION,
        world_version=WORLD_VERSION,
        seed=seed,
        pairs=pairs,
        size=size,
        hash=benchmark_hash(drawn),
    )
    if (root / MANIFEST).exists():
        if read_benchmark(root) != manifest:
            raise ValueError(
                f"{root} holds another benchmark (other seed, pairs, size or version): "
                "write to an empty folder"
            )
    else:
        _write(root / MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    for first in range(0, pairs, _BATCH):
        part, names = drawn[first : first + _BATCH], manifest.names[first : first + _BATCH]
        _write_pictures(root / "sources", names, part.source_photos, size)
        _write_pictures(root / "targets", names, part.target_photos, size)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("pair", "source", "target"))
    writer.writerows((name, f"sources/{name}.png", f"targets/{name}.png") for name in manifest.names)
    _write(root / "pairs.csv", table.getvalue().encode())
    readme = _README.format(pairs=pairs, digits=manifest.digits, size=size, seed=seed)
    _write(root / "README.md", readme.encode())
    if with_truth:
        _write_truths(root, manifest, drawn)
    return manifest


def read_benchmark(root: Path) -> BenchmarkManifest:
    """The manifest that `write_benchmark` left in `root`.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = root / MANIFEST
    try:
        return BenchmarkManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{root} has no {MANIFEST}: it is not a folder of `orchard world sample`") from None
    except ValidationError as error:
        raise ValueError(
            f"{path} is damaged ({error.error_count()} faults, first: {error.errors()[0]['msg']}): "
            "write the benchmark again"
        ) from error


def _write_truths(root: Path, manifest: BenchmarkManifest, drawn: BenchmarkPairs) -> None:
    points: dict[str, dict[str, list[list[float]]]] = {}
    for first in range(0, manifest.pairs, _BATCH):
        part = drawn[first : first + _BATCH]
        truth = render(part.sources, part.target_attributes, manifest.size)
        for row, name in enumerate(manifest.names[first : first + _BATCH]):
            mask = truth.visible_face_NHW[row].astype(np.uint8) * 255
            _write_new(root / "truth" / f"{name}.png", _png(truth.images_NHWC[row]))
            _write_new(root / "masks" / f"{name}.png", _png(mask))
            _write_new(root / "parsing" / f"{name}.png", _png(truth.parsing_NHW[row]))
            depth = io.BytesIO()
            np.save(depth, truth.depth_NHW[row], allow_pickle=False)
            _write_new(root / "depth" / f"{name}.npy", depth.getvalue())
            points[name] = {
                "landmarks_68": truth.landmarks_68_N682[row].tolist(),
                "iris": truth.iris_N102[row].tolist(),
            }
    _write(root / "landmarks.json", json.dumps(points).encode())


def _write_pictures(
    folder: Path, names: Sequence[str], renderer: Callable[[int], NDArray[np.uint8]], size: int
) -> None:
    """Render and write a batch unless all of it is there."""
    paths = [folder / f"{name}.png" for name in names]
    if all(path.exists() for path in paths):
        return
    for path, picture in zip(paths, renderer(size), strict=True):
        _write_new(path, _png(picture))


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_new(path: Path, content: bytes) -> None:
    if not path.exists():
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    """Write through a neighbour and a rename, so that a killed process leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
