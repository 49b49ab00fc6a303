"""A stand-in for a model that is slow to load and then keeps a GPU busy: as a stage, and for Ray Data.

In a file of its own, so that processes of a cluster can import it by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from assets.stage import Input, NoConfig, RowStage, StageContext, StageGraph
from resources.lake.schema import Column

BATCH = 64


class StandIn:
    """A model that takes its time: `load_seconds` to be there, `row_seconds` for every row."""

    def __init__(self, load_seconds: float, row_seconds: float) -> None:
        time.sleep(load_seconds)
        self.row_seconds = row_seconds

    def levels(self, pictures: Sequence[np.ndarray]) -> list[float]:
        """Mean of each picture, after the time that they take."""
        time.sleep(self.row_seconds * len(pictures))
        return [float(picture.mean()) for picture in pictures]


def stand_in_graph(load_seconds: float, row_seconds: float) -> StageGraph:
    """One stage with that model."""

    def load(context: StageContext):
        model = StandIn(load_seconds, row_seconds)
        return lambda rows: [{"level": level} for level in model.levels([row["image"] for row in rows])]

    stage = RowStage(
        name="level",
        code_version="1",
        description="Mean of all pixels, by a model that is slow to load.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)),),
        outputs=(Column("level", pa.float32(), quantum=0.01),),
        load=load,
        batch_size=BATCH,
    )
    return StageGraph((stage,))


class DecodeAndLevel:
    """What a user of Ray Data maps over batches."""

    def __init__(self, load_seconds: float, row_seconds: float) -> None:
        self.model = StandIn(load_seconds, row_seconds)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Decode the pictures of a batch and add their levels."""
        files = (np.frombuffer(data, np.uint8) for data in batch["image"])
        pictures = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in files]
        levels = self.model.levels([picture for picture in pictures if picture is not None])
        return {"image_id": batch["image_id"], "level": np.array(levels, np.float32)}
