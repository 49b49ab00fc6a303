"""Annotation in the shape of the published preprocessing: a script per stage, one photograph at a time.

Every script opens and decodes every photograph anew, calls its network on that one and writes RGB pictures
of the photograph's size, as APPLE's repository does (its scripts for landmarks, iris, segmentation with
condition image, and score). The networks here are Orchard's own, so that only what lies around them differs.
What a script needs of an earlier one beyond pictures is handed to it in memory, free of charge.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from assets.condition import row_frame
from assets.stage import RowModel
from benches.clocks import Clock
from models.faces.condition import ConditionRecipe
from models.faces.constants import PALETTE
from models.faces.frame import frame_condition
from models.faces.parsing import decode_codes, unpack_mask
from resources.photos.reasons import RowError

DOT_SHARE = 200
"""A landmark's radius is the photograph's shorter side divided by this, its line twice as thick."""

IRIS_RADIUS = 2


def annotate(
    photos: Sequence[Path], out: Path, models: Mapping[str, RowModel], network: Clock, free: Clock
) -> dict[str, float]:
    """Run every script over all photographs, the models on one row at a time; returns each one's seconds.

    `network` counts what goes into the networks, and into rendering condition images; `free` what the
    original does not have to do.
    """
    rows: dict[Path, dict[str, Any]] = {path: {} for path in photos}
    seconds: dict[str, float] = {}
    for stage, write in SCRIPTS.items():
        started, gift = time.perf_counter(), free.seconds
        for photo, row in list(rows.items()):
            with Image.open(photo) as opened:
                row["image"] = np.asarray(opened.convert("RGB"))
            if stage == "condition":
                _read_dots(out, photo)
            with network.running():
                outcome = _render(row) if stage == "condition" else models[stage]([row])[0]
            if isinstance(outcome, RowError):
                del rows[photo]
                continue
            row |= outcome
            if stage == "masks":
                with free.running():
                    size = row["image"].shape[:2]
                    row["codes"] = decode_codes(row["parsing"], size)
                    row["visible"] = unpack_mask(row["visible_face"], size)
            write(out, photo, row)
            del row["image"]
        if stage == "aesthetics":
            scores = {_key(photo): {"aes": row["aesthetic_score"]} for photo, row in rows.items()}
            (out / "score.json").write_text(json.dumps(scores, indent=4), encoding="utf-8")
        seconds[stage] = time.perf_counter() - started - (free.seconds - gift)
    return seconds


def _key(photo: Path) -> str:
    return f"{photo.parent.name}/{photo.stem}"


def _place(out: Path, photo: Path, *folders: str, suffix: str = ".png") -> Path:
    place = out.joinpath(photo.parent.name, *folders) / f"{photo.stem}{suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _write_landmarks(out: Path, photo: Path, row: dict[str, Any]) -> None:
    canvas = np.zeros_like(row["image"])
    radius = max(min(canvas.shape[:2]) // DOT_SHARE, 1)
    for x, y in row["landmarks_68"].reshape(68, 2):
        cv2.circle(canvas, (int(x), int(y)), radius, (0, 255, 0), 2 * radius)
    cv2.imwrite(str(_place(out, photo, "3dmm", photo.stem, suffix="_ldm68.png")), canvas)


def _write_iris(out: Path, photo: Path, row: dict[str, Any]) -> None:
    for folder, canvas in (
        ("iris", Image.new("RGB", row["image"].shape[1::-1])),
        ("iris_vis", Image.fromarray(row["image"])),
    ):
        draw = ImageDraw.Draw(canvas)
        for x, y in row["iris_10"].reshape(10, 2):
            draw.ellipse((x - IRIS_RADIUS, y - IRIS_RADIUS, x + IRIS_RADIUS, y + IRIS_RADIUS), (255, 0, 0))
        canvas.save(_place(out, photo, folder))


def _write_masks(out: Path, photo: Path, row: dict[str, Any]) -> None:
    colours = np.array(PALETTE, np.uint8)[row["codes"]]
    face = np.asarray(colours.any(axis=2))
    pictures = {
        "segmap": colours,
        "segmap_intersection": colours * row["visible"][..., None],
        "mask": np.repeat(face[..., None] * np.uint8(255), 3, axis=2),
        "mask_intersection": np.repeat((face & row["visible"])[..., None] * np.uint8(255), 3, axis=2),
    }
    for folder, picture in pictures.items():
        cv2.imwrite(str(_place(out, photo, folder)), picture[..., ::-1])


def _write_identity(out: Path, photo: Path, row: dict[str, Any]) -> None:
    np.save(_place(out, photo, "pulid_id", suffix=".npy"), row["identity_embedding"])


def _read_dots(out: Path, photo: Path) -> None:
    """Landmarks and irises come to the condition image as the pictures that were written of them."""
    for place in (_place(out, photo, "3dmm", photo.stem, suffix="_ldm68.png"), _place(out, photo, "iris")):
        if cv2.imread(str(place)) is None:
            raise FileNotFoundError(place)


def _render(row: dict[str, Any]) -> dict[str, Any]:
    """The condition image at the photograph's size."""
    frame = row_frame(row, max(row["image"].shape[:2]))
    return {"picture": frame_condition(frame, ConditionRecipe())}


def _write_condition(out: Path, photo: Path, row: dict[str, Any]) -> None:
    place = _place(out, photo, "condition_blended_image_blurdownsample8_segGlass_landmark_iris")
    cv2.imwrite(str(place), row["picture"][..., ::-1])


def _write_nothing(out: Path, photo: Path, row: dict[str, Any]) -> None:
    """Scores go into one file, when all are there."""


SCRIPTS: dict[str, Callable[[Path, Path, dict[str, Any]], None]] = {
    "landmarks": _write_landmarks,
    "iris": _write_iris,
    "masks": _write_masks,
    "aesthetics": _write_nothing,
    "identity_embedding": _write_identity,
    "condition": _write_condition,
}
"""What every script writes, in the order in which they run."""
