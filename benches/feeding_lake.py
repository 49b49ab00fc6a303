"""Photographs to feed, kept in both ways: as rows of a lake, and as the original's tree of pictures.

The photographs are rendered; masks and points are the renderer's own. Of a few hundred different ones a lake
of any size is made by naming them again, for what is measured is reading and decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from assets.apple_layout import landmarks_file, picture_file, row_files
from assets.condition import OWN_CONDITION
from assets.row_reader import RowReader
from models.faces.condition import ConditionRecipe
from models.faces.parsing import encode_codes, pack_mask
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render
from resources.lake.lake import Lake
from resources.lake.schema import FACES_SCHEMA, Column

JPEG_QUALITY = 95
IDENTITY = 128
"""Numbers of an identity embedding."""

SHARD_ROWS = 250
RECIPE = ConditionRecipe()

COLUMNS = {
    "landmarks": (Column("landmarks_68", pa.list_(pa.float32(), 136), 1e-2),),
    "iris": (Column("iris_10", pa.list_(pa.float32(), 20), 1e-2),),
    "masks": (Column("parsing", pa.binary()), Column("visible_face", pa.binary())),
    "identity_embedding": (Column("identity_embedding", pa.list_(pa.float32(), IDENTITY), 1e-3),),
}
"""What is known of a photograph, by the stage that makes it in a real lake."""


@dataclass(frozen=True)
class Kept:
    """The same rows in the lake and in the tree: `photos[row]` is the file of a row's photograph."""

    reader: RowReader
    photos: tuple[Path, ...]


def photographs(count: int, size: int) -> list[dict[str, Any]]:
    """Rendered photographs with their annotation, as rows of a lake."""
    faces = render(sample_identities(7, count), sample_attributes(7, count), size)
    noise = np.random.default_rng(7).standard_normal((count, IDENTITY)).astype(np.float32)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        image = cv2.imencode(".jpg", faces.images_NHWC[index][..., ::-1], quality)[1].tobytes()
        rows.append(
            {
                "image": image,
                "width": size,
                "height": size,
                "orientation": 1,
                "landmarks_68": faces.landmarks_68_N682[index].ravel(),
                "iris_10": faces.iris_N102[index].ravel(),
                "parsing": encode_codes(faces.parsing_NHW[index]),
                "visible_face": pack_mask(faces.visible_face_NHW[index]),
                "identity_embedding": noise[index],
            }
        )
    return rows


def keep(root: Path, different: int, rows: int, size: int) -> Kept:
    """Render `different` photographs and keep `rows` rows of them under `root`, in the lake and as a tree."""
    rendered = photographs(different, size)
    names = [f"p{row // 20:05d}/{row % 20:02d}" for row in range(rows)]
    return Kept(_keep_in_lake(root / "lake", rendered, names), _keep_as_tree(root / "tree", rendered, names))


def _keep_in_lake(folder: Path, rendered: list[dict[str, Any]], names: list[str]) -> RowReader:
    import hashlib

    lake = Lake.open(folder, create=True)
    fields = [pa.field(item.name, item.type) for group in COLUMNS.values() for item in group]
    fields.append(pa.field(OWN_CONDITION.recipe, pa.string()))
    lake.faces.ensure_columns(fields)
    base = [field for field in FACES_SCHEMA if not pa.types.is_struct(field.type)]
    for start in range(0, len(names), SHARD_ROWS):
        rows = []
        for place, name in enumerate(names[start : start + SHARD_ROWS], start):
            row = rendered[place % len(rendered)]
            rows.append(
                row
                | {
                    "image_id": name,
                    "identity": name.partition("/")[0],
                    "shard": f"shard-{start // SHARD_ROWS:05d}",
                    "image_sha256": hashlib.sha256(row["image"]).hexdigest(),
                    "source": f"/photos/{name}.jpg",
                    "consent": "synthetic",
                    OWN_CONDITION.recipe: RECIPE.model_dump_json(),
                }
            )
        lake.faces.append(pa.Table.from_pylist(rows, schema=pa.schema([*base, *fields])))
    snapshot = lake.faces.snapshot()
    return RowReader(snapshot, snapshot.scan([])["_rowid"].to_numpy().astype(np.int64))


def _keep_as_tree(folder: Path, rendered: list[dict[str, Any]], names: list[str]) -> tuple[Path, ...]:
    stages = ("faces", "landmarks", "iris", "masks", "identity_embedding", "condition")
    first: list[dict[str, Path]] = []
    photos: list[Path] = []
    for place, name in enumerate(names):
        person, stem = name.split("/")
        root = folder / person
        if place < len(rendered):
            row = rendered[place] | {"image_id": name}
            files = row_files(row, COLUMNS, stages, RECIPE)
            first.append({})
            for path, data in files.items():
                first[place][path.replace(stem, "{stem}")] = _write(root / path, data)
        else:
            for path, written in first[place % len(rendered)].items():
                target = root / path.format(stem=stem)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(written)
        photos.append(root / f"{stem}.jpg")
    return tuple(photos)


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pictures_of(photo: Path) -> dict[str, Path]:
    """The pictures that the original keeps of a photograph, by kind, in the order it makes them."""
    stem = photo.stem
    kinds = ("iris", "segmap", "segmap_intersection", "mask", "mask_intersection")
    paths = {"landmarks": photo.parent / landmarks_file(stem)}
    return paths | {kind: photo.parent / picture_file(kind, stem) for kind in kinds}


def condition_of(photo: Path) -> Path:
    """The condition image of a photograph."""
    return photo.parent / picture_file(RECIPE.folder, photo.stem)
