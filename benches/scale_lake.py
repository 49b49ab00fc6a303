"""What `benches.scale` ingests and computes: tiny photographs, two cheap stages, every profile's release.

The photographs are real JPEG files and the stages are real stages, so that everything goes through our own
ingest, runner and planner; only the models are small, so that what is measured is all the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from assets.release import ReleaseConfig, release_stage
from assets.stage import Input, NoConfig, Row, RowModel, RowOutcome, RowStage, StageContext, StageGraph
from resources.lake.schema import FACES_STAGE, Column

SIDE = 64
PER_IDENTITY = 20
"""Photographs of one person, and so files in one folder."""

GREYS = 64
BUMPED = {"aesthetics": "2"}
FOR_DAEMON = {**BUMPED, "identity_embedding": "2"}
"""Code versions after the bump that `orchard run` computes, and after the one that is left to the daemon."""

STAGES = ("aesthetics", "identity_embedding")
"""Row stages of the bench, named as those that a release reads; the second reads the first one's output."""


def scale_graph(code_versions: Mapping[str, str] | None = None) -> StageGraph:
    """`aesthetics` (brightness) and `identity_embedding` (mean colours), and the release made of both."""
    versions = dict.fromkeys(STAGES, "1") | dict(code_versions or {})
    score = RowStage(
        name="aesthetics",
        code_version=versions["aesthetics"],
        description="Bench: mean brightness of the photograph, 0 to 10.",
        config=NoConfig(),
        inputs=(Input(FACES_STAGE, ("image",)),),
        outputs=(Column("aesthetic_score", pa.float32(), quantum=0.01),),
        load=_model(_score),
        batch_size=256,
    )
    colours = RowStage(
        name="identity_embedding",
        code_version=versions["identity_embedding"],
        description="Bench: mean red, green and blue, 0 to 1, and the score.",
        config=NoConfig(),
        inputs=(Input(FACES_STAGE, ("image",)), Input("aesthetics", ("aesthetic_score",))),
        outputs=(Column("identity_embedding", pa.list_(pa.float32(), 4), quantum=0.001),),
        load=_model(_colours),
        batch_size=256,
    )
    config = ReleaseConfig(triplets=100, swap_pairs=20, pair_shard_size=1000)
    return StageGraph((score, colours, release_stage(config, needed=("identity_embedding",))))


def _model(compute: Callable[[Row], RowOutcome]) -> Callable[[StageContext], RowModel]:
    def load(context: StageContext) -> RowModel:
        def model(rows: Sequence[Row]) -> list[RowOutcome]:
            return [compute(row) for row in rows]

        return model

    return load


def _score(row: Row) -> RowOutcome:
    return {"aesthetic_score": float(cv2.mean(row["image"])[0]) / 25.5}


def _colours(row: Row) -> RowOutcome:
    red, green, blue, _ = cv2.mean(row["image"])
    values = np.array([red / 255, green / 255, blue / 255, row["aesthetic_score"] / 10], np.float32)
    return {"identity_embedding": values}


def write_photographs(folder: Path, count: int) -> int:
    """As many JPEG files, twenty to a folder, no two alike; returns their bytes.

    The pictures have 64 greys; a comment in the file makes each its own.
    """
    pictures = [jpeg_bytes(index * 255 // GREYS) for index in range(GREYS)]
    written = 0
    for index in range(count):
        person, photo = divmod(index, PER_IDENTITY)
        place = f"{folder}/p{person:07d}"
        if photo == 0:
            os.makedirs(place)
        data = with_comment(pictures[index % GREYS], f"photograph {index}")
        handle = os.open(f"{place}/{photo:02d}.jpg", os.O_WRONLY | os.O_CREAT)
        os.write(handle, data)
        os.close(handle)
        written += len(data)
    return written


def change_photograph(folder: Path) -> None:
    """Write another picture in the place of the second one."""
    (folder / "p0000000" / "01.jpg").write_bytes(with_comment(jpeg_bytes(255), "changed"))


def jpeg_bytes(grey: int) -> bytes:
    """A JPEG of 64 x 64 pixels of one grey (0 to 255), a third of a kilobyte."""
    done, data = cv2.imencode(".jpg", np.full((SIDE, SIDE, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment right after the file's first marker."""
    body = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]
