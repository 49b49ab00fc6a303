"""Pictures that are in no lake, through the very stages that annotate the lake's photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assets.stage import Row, RowModel, RowStage, StageGraph
from resources.photos.reasons import RowError


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
