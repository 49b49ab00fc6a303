"""APPLE's folder layout: where its scripts keep what they know of a photograph, and the files of one row.

Beside a person's photographs lie folders with one file for each: `3dmm/<stem>/<stem>_ldm68.png` (68 green
dots), `iris/<stem>.png` (ten red dots), `segmap/<stem>.png` (parsing in colours), `mask/<stem>.png` (face in
white), both again as `_intersection` with the visible face, and the condition image in a folder named after
its recipe. `score.json` at the root holds the aesthetic scores.

The pictures do not tell everything: dots tell points to the pixel, colours do not tell hair from background.
So `orchard/<stem>.json` keeps the exact values beside them, with the digests of the pictures they belong to.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image as PillowImage

from models.faces.condition import ConditionRecipe, condition_image, condition_masks, iris_dots, landmark_dots
from models.faces.constants import FACE_CLASSES, PALETTE
from models.faces.images import Image
from models.faces.parsing import decode_codes, unpack_mask
from resources.lake.schema import Column
from resources.photos.decoding import decode_upright

LAYOUT_STAGES = ("faces", "landmarks", "iris", "masks", "condition", "aesthetics", "identity_embedding")
"""Stages that have files in the layout; `faces` are the photographs themselves."""

IMPORTED_STAGES = tuple(stage for stage in LAYOUT_STAGES if stage not in ("faces", "condition"))
"""Stages whose results are read back. A condition image is drawn anew from them."""

SCORES_FILE = "score.json"
EXACT_FOLDER = "orchard"
EXACT_FORMAT = 1
IDENTITY_FOLDER = "identity_embedding"

PULID_FOLDER = "pulid_id"
PULID_TOKENS = (32, 2048)
PULID_NUMBERS = PULID_TOKENS[0] * PULID_TOKENS[1]
"""APPLE's trainer reads PuLID's tokens; embeddings of another size go to `IDENTITY_FOLDER`."""

LANDMARK_GREEN, IRIS_RED, WHITE = (0, 255, 0), (255, 0, 0), (255, 255, 255)

PNG_COMPRESSION = 6
"""Fixed, so that the same picture always gives the same bytes."""


def landmarks_file(stem: str) -> str:
    """Path of the drawn landmarks below a person's folder."""
    return f"3dmm/{stem}/{stem}_ldm68.png"


def picture_file(kind: str, stem: str) -> str:
    """Path of another picture (`iris`, `segmap`, `mask`, a recipe's folder, ...) below a person's folder."""
    return f"{kind}/{stem}.png"


def embedding_file(stem: str, numbers: int) -> str:
    """Path of an identity embedding of so many numbers below a person's folder."""
    return f"{PULID_FOLDER if numbers == PULID_NUMBERS else IDENTITY_FOLDER}/{stem}.npy"


def exact_file(stem: str) -> str:
    """Path of the exact values below a person's folder."""
    return f"{EXACT_FOLDER}/{stem}.json"


def photograph_file(data: bytes, orientation: int | None, stem: str) -> tuple[str, bytes]:
    """Name and bytes of the photograph: as stored, or upright as PNG where EXIF turns it.

    APPLE's scripts ignore EXIF, and every annotation is of the upright picture.
    """
    if orientation not in (None, 1):
        return f"{stem}.png", encode_png(decode_upright(data))
    suffix = ".jpg" if data[:2] == b"\xff\xd8" else ".png" if data[:4] == b"\x89PNG" else ".webp"
    return stem + suffix, data


def row_files(
    row: Mapping[str, Any],
    outputs: Mapping[str, Collection[Column]],
    stages: Collection[str],
    recipe: ConditionRecipe,
) -> dict[str, bytes]:
    """The files of one photograph by path below its person's folder.

    Args:
        row: columns of the photograph and of the stages in `outputs`, vectors flat.
        outputs: columns of every stage that is ok and fresh in this row.
        stages: which stages are written; `condition` needs landmarks, iris and masks in `outputs`.
        recipe: which condition image is drawn, at the size of the photograph.
    """
    stem = row["image_id"].rsplit("/", 1)[-1]
    size = (int(row["height"]), int(row["width"]))
    name, photograph = photograph_file(row["image"], row["orientation"], stem)
    drawn: dict[str, dict[str, bytes]] = {}
    if "landmarks" in outputs:
        dots = landmark_dots(_points(row["landmarks_68"]), size, None)
        drawn["landmarks"] = {landmarks_file(stem): encode_png(_painted(dots, LANDMARK_GREEN))}
    if "iris" in outputs:
        dots = iris_dots(_points(row["iris_10"]), size, None)
        drawn["iris"] = {picture_file("iris", stem): encode_png(_painted(dots, IRIS_RED))}
    if "masks" in outputs:
        drawn["masks"] = _mask_files(row, size, stem)
    if "identity_embedding" in outputs:
        vector = np.asarray(row["identity_embedding"], np.float32)
        drawn["identity_embedding"] = {embedding_file(stem, vector.size): _npy(vector)}
    files = {name: photograph} if "faces" in stages else {}
    for stage, pictures in drawn.items():
        files |= pictures if stage in stages else {}
    if "condition" in stages and {"landmarks", "iris", "masks"} <= outputs.keys():
        codes, visible = decode_codes(row["parsing"], size), unpack_mask(row["visible_face"], size)
        face, glasses = condition_masks(codes, visible)
        landmarks, iris = _points(row["landmarks_68"]), _points(row["iris_10"])
        picture = condition_image(decode_upright(row["image"]), face, glasses, landmarks, iris, recipe)
        files[picture_file(recipe.folder, stem)] = encode_png(picture)
    kept = [stage for stage in IMPORTED_STAGES if stage in outputs and stage in stages]
    if kept:
        values = {
            stage: {
                "files": {path: sha256(data) for path, data in drawn.get(stage, {}).items()},
                "values": {column.name: to_json(row[column.name], column) for column in outputs[stage]},
            }
            for stage in kept
        }
        exact = {"format": EXACT_FORMAT, "image_sha256": sha256(photograph), "stages": values}
        files[exact_file(stem)] = json.dumps(exact, sort_keys=True).encode() + b"\n"
    return files


def scores_bytes(scores: Mapping[str, float]) -> bytes:
    """`score.json` of aesthetic scores by `<person>/<stem>`, in natural order."""
    ordered = {name: {"aes": scores[name]} for name in sorted(scores, key=_natural)}
    return json.dumps(ordered, indent=4).encode() + b"\n"


def to_json(value: Any, column: Column) -> Any:
    """A column's value as JSON holds it without loss: floats in their shortest form, bytes in base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, np.ndarray):
        return [to_json(item, column) for item in value.tolist()]
    if isinstance(value, list):
        return [to_json(item, column) for item in value]
    return short_float(value) if isinstance(value, float) else value


def from_json(value: Any, column: Column) -> Any:
    """The inverse of `to_json`."""
    return base64.b64decode(value) if value is not None and pa.types.is_binary(column.type) else value


def short_float(value: float) -> float:
    """The shortest decimal number that is this float32."""
    return float(str(np.float32(value)))


def encode_png(picture: Image) -> bytes:
    """A PNG whose bytes depend on the pixels alone."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, "PNG", compress_level=PNG_COMPRESSION, optimize=False)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def _mask_files(row: Mapping[str, Any], size: tuple[int, int], stem: str) -> dict[str, bytes]:
    codes, visible = decode_codes(row["parsing"], size), unpack_mask(row["visible_face"], size)
    colours, face = np.array(PALETTE, np.uint8)[codes], np.isin(codes, FACE_CLASSES)
    pictures = {
        "segmap": colours,
        "segmap_intersection": colours * visible[..., None].astype(np.uint8),
        "mask": _painted(face, WHITE),
        "mask_intersection": _painted(face & visible, WHITE),
    }
    return {picture_file(kind, stem): encode_png(picture) for kind, picture in pictures.items()}


def _painted(mask_HW: np.ndarray, colour: tuple[int, int, int]) -> Image:
    return mask_HW[..., None].astype(np.uint8) * np.array(colour, np.uint8)


def _points(flat: Any) -> np.ndarray:
    return np.asarray(flat, np.float32).reshape(-1, 2)


def _npy(vector: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    shaped = vector.reshape(PULID_TOKENS) if vector.size == PULID_NUMBERS else vector
    np.save(buffer, shaped, allow_pickle=False)
    return buffer.getvalue()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which n2 comes before n10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]
