"""Small preview pictures of a shard, for Dagster's metadata and the report."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from assets.batches import merge_columns, read_inputs
from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE, Status, state_column
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError

TILE = 160
"""Side of one preview tile in pixels."""

PREVIEW_ROWS = 4


def stage_preview(lake: Lake, graph: StageGraph | None, stage_name: str, shard: str) -> bytes | None:
    """A PNG with the first rows of a shard that are ok in this stage; None when there is none to show."""
    if stage_name == FACES_STAGE or graph is None:
        tiles = _photographs(lake, shard)
    else:
        stage = graph[stage_name]
        if not isinstance(stage, RowStage) or stage.preview is None:
            return None
        tiles = _drawn(Planner(lake, graph), stage, shard)
    return encode_png(tile_row(tiles)) if tiles else None


def tile_row(pictures: Sequence[np.ndarray], size: int = TILE) -> np.ndarray:
    """Pictures (RGB uint8, any size) letterboxed to squares, side by side: (size, n * size, 3)."""
    return np.concatenate([letterbox(picture, size) for picture in pictures], axis=1)


def letterbox(picture: np.ndarray, size: int) -> np.ndarray:
    """The picture fitted into a grey square; small pictures are enlarged without smoothing."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(picture, fitted, interpolation=cv2.INTER_NEAREST if scale > 2 else cv2.INTER_AREA)
    square = np.full((size, size, 3), 235, np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    square[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return square


def encode_png(picture: np.ndarray) -> bytes:
    """RGB uint8 as PNG bytes."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {picture.shape}")
    return encoded.tobytes()


def _photographs(lake: Lake, shard: str) -> list[np.ndarray]:
    snapshot = lake.faces.snapshot()
    status = f"{state_column(FACES_STAGE)}.status"
    rows = snapshot.scan(["image_id", status], shard=shard, filter=f"{status} = '{Status.OK.value}'")
    ids = rows["_rowid"].to_pylist()[:PREVIEW_ROWS]
    return [decode_upright(row["image"]) for row in snapshot.read_rows(ids, ["image"])]


def _drawn(planner: Planner, stage: RowStage, shard: str) -> list[np.ndarray]:
    assert stage.preview is not None  # the caller looked
    table = planner.table(stage.table, shard)
    positions = np.flatnonzero(table.stages[stage.name].ok)[:PREVIEW_ROWS]
    if not len(positions):
        return []
    rows = read_inputs(planner, stage, table, positions, also=("image",) if stage.table == "faces" else ())
    good = [row for row in rows if not isinstance(row, RowError)]
    if len(good) != len(rows):
        return []
    names = [column.name for column in stage.outputs]
    outputs = table.snapshot.read_table(table.row_ids[positions].tolist(), names)
    merge_columns(good, outputs, {name: name for name in names})
    return [stage.preview(row) for row in good]
