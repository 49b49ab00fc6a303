"""Values of single pairs on disk: one Parquet file per method and guidance scale of a training seed.

Pooled intervals and paired comparisons need every value; the result file holds what was computed of them.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from benches.leaderboard.plan import Plan
from models.swap.config import FrozenConfig

_KEY = b"leaderboard"
SEED_FILE = "seed.json"
GRID_FILE = "grid.npz"


@dataclass(frozen=True)
class Key:
    """Which row of the leaderboard."""

    name: str
    method: str
    conditioning: str | None
    scale: float | None

    @property
    def label(self) -> str:
        """The row without its scale."""
        method = self.method if self.conditioning is None else f"{self.method}:{self.conditioning}"
        return method if self.name == method else f"{self.name}/{method}"

    @property
    def file_name(self) -> str:
        """A file name of its own."""
        scale = "" if self.scale is None else f"--{self.scale:g}"
        return self.label.replace("/", "--").replace(":", "-") + scale + ".parquet"


@dataclass(frozen=True)
class Measured:
    """All values of a row, float64 (N,) by metric, and uint8 RGB (M, S, S, 3) of the first M pairs."""

    key: Key
    pair_ids: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    pictures: NDArray[np.uint8]


class SeedRecord(FrozenConfig):
    """What a finished seed says of itself."""

    seed: int
    plan: Plan
    base_sha256: str = Field(description="What the base is called in checkpoints: all of its files.")
    base_file_sha256: str
    embedder_sha256: str
    recommended_scale: float
    image_size: int
    left_out: tuple[str, ...] = Field(description="Pairs in which some stage found no face.")
    steps: dict[str, int] = Field(description="Optimiser steps by checkpoint, e.g. `inpainting/student`.")
    checkpoints: dict[str, str] = Field(description="Names of the checkpoints' folders.")


def keep(folder: Path, measured: Measured, made_by: str) -> None:
    """Write a row's values, whole or not at all. `made_by` names all that they depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"pair_id": pa.array(measured.pair_ids, pa.string())}
    for name, values in measured.values.items():
        columns[name] = pa.array(values, pa.float64())
    pictures = [_png(picture) for picture in measured.pictures]
    pictures += [None] * (len(measured.pair_ids) - len(pictures))
    columns["picture"] = pa.array(pictures, pa.binary())
    told = json.dumps({**measured.key.__dict__, "made_by": made_by})
    path = folder / measured.key.file_name
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(pa.table(columns).replace_schema_metadata({_KEY: told.encode()}), unfinished)
    unfinished.replace(path)


def is_kept(folder: Path, key: Key, made_by: str) -> bool:
    """Whether a row's values are there, made by the same."""
    path = folder / key.file_name
    return path.is_file() and json.loads(pq.read_schema(path).metadata[_KEY])["made_by"] == made_by


def read_all(folder: Path) -> list[Measured]:
    """All rows of a seed, by file name."""
    return [_read(path) for path in sorted(folder.glob("*.parquet"))]


def _read(path: Path) -> Measured:
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[_KEY])
    told.pop("made_by")
    pictures = [
        np.asarray(Image.open(io.BytesIO(data))) for data in table["picture"].to_pylist() if data is not None
    ]
    metrics = [name for name in table.column_names if name not in ("pair_id", "picture")]
    return Measured(
        Key(**told),
        tuple(table["pair_id"].to_pylist()),
        {name: table[name].to_numpy() for name in metrics},
        np.stack(pictures) if pictures else np.empty((0, 1, 1, 3), np.uint8),
    )


def seed_folder(work: Path, seed: int) -> Path:
    """Everything of one training seed."""
    return work / f"seed-{seed}"


def finished_seeds(work: Path) -> dict[int, SeedRecord]:
    """Records of all seeds that were run to the end, by seed."""
    records = [
        SeedRecord.model_validate_json(path.read_text(encoding="utf-8"))
        for path in work.glob(f"seed-*/{SEED_FILE}")
    ]
    return {record.seed: record for record in sorted(records, key=lambda record: record.seed)}


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
