"""Pictures that are in no lake, through the very stages that annotate the lake's photographs.

A swap is brought to the shape of its target photograph before: both are seen in one geometry then, and
detectors find more than in 32 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from assets.stage import Row, RowModel, RowStage, StageConfig, StageGraph
from models.faces.mesh import POINT_COUNT
from resources.photos.reasons import RowError


class AnnotationRecipe(StageConfig):
    """What an annotation stage computes with: what a score depends on besides its inputs."""

    stage: str = Field(description="Name of the stage.")
    code_version: str = Field(description="Its code version.")
    settings: dict[str, Any] = Field(description="Its settings.")


def annotation_recipes(graph: StageGraph) -> tuple[AnnotationRecipe, ...]:
    """What every row stage of `graph` computes with, in its order."""
    return tuple(
        AnnotationRecipe(
            stage=stage.name,
            code_version=stage.code_version,
            settings=stage.settings,
        )
        for stage in graph.row_stages()
    )


def annotate_pictures(
    rows: Sequence[Row], graph: StageGraph, model_of: Callable[[RowStage], RowModel]
) -> list[dict[str, Any] | RowError]:
    """Columns of every row by all row stages of `graph`, arrays flat as in the lake, or why there are none.

    A row holds `image`, RGB uint8 (H, W, 3), and `FACE_AT` where the face has been chosen. `model_of` gives a
    stage's loaded model; no model is asked for once no row is left.
    """
    done: list[dict[str, Any] | RowError] = [dict(row) for row in rows]
    for stage in graph.row_stages():
        going = [(place, row) for place, row in enumerate(done) if not isinstance(row, RowError)]
        if not going:
            break
        model = model_of(stage)
        for start in range(0, len(going), stage.batch_size):
            part = going[start : start + stage.batch_size]
            outcomes = model([row for _, row in part])
            for (place, row), outcome in zip(part, outcomes, strict=True):
                done[place] = outcome if isinstance(outcome, RowError) else row | _flat(outcome)
    return done


def _flat(outcome: Row) -> dict[str, Any]:
    return {
        name: np.asarray(value).ravel() if isinstance(value, np.ndarray) else value
        for name, value in outcome.items()
    }


def in_shape(picture: np.ndarray, width: int, height: int, long_side: int) -> tuple[np.ndarray, float]:
    """A picture in the shape of a photograph of `width` x `height` px, and the scale against it.

    The photograph's own size is taken, or the one whose longer side is `long_side` where that is less.
    """
    scale = min(1.0, long_side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrinks = min(size) < min(picture.shape[:2])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), scale


def mesh_centre(mesh: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of a mesh, flat as in the lake."""
    return mesh.reshape(POINT_COUNT, 3)[:, :2].mean(axis=0)


def lies_on(mesh: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether a face lies on another: its mesh's centre within the other's bounds, both in one geometry."""
    centre, bounds = mesh_centre(mesh), theirs.reshape(POINT_COUNT, 3)[:, :2]
    return bool(((centre >= bounds.min(axis=0)) & (centre <= bounds.max(axis=0))).all())
