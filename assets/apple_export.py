"""Write a lake's photographs and annotations as a tree in APPLE's layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from assets.apple_layout import (
    IMPORTED_STAGES,
    LAYOUT_STAGES,
    SCORES_FILE,
    row_files,
    scores_bytes,
    short_float,
)
from assets.batches import column_values
from assets.plan_rows import TablePlan
from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from models.faces.condition import ConditionRecipe
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import FACES_STAGE

ROWS_AT_ONCE = 64
PHOTO_COLUMNS = ("image_id", "image", "orientation", "width", "height")


@dataclass
class ExportReport:
    """How many photographs have files of each stage, and how many files were written or stood already."""

    photographs: Counter[str] = field(default_factory=Counter)
    written: int = 0
    unchanged: int = 0

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "photographs": {stage: self.photographs[stage] for stage in LAYOUT_STAGES},
            "written": self.written,
            "unchanged": self.unchanged,
        }


@works_on_lake
def export_apple(
    lake: Lake,
    graph: StageGraph,
    root: Path,
    stages: Collection[str] = LAYOUT_STAGES,
    recipe: ConditionRecipe | None = None,
    on_photo: Callable[[str], None] = lambda image_id: None,
) -> ExportReport:
    """Write every sound photograph with what `graph` knows of it today.

    The same lake gives the same bytes. Results that are stale, waiting or quarantined have no file. Files
    that are there already and differ are replaced; what else lies in `root` is left alone.

    Args:
        lake: where the photographs are.
        graph: the profile's stages.
        root: the folder; made when absent.
        stages: which of `LAYOUT_STAGES` are written.
        recipe: which condition image; the paper's by default.
        on_photo: told each photograph's id before it is written.

    Raises:
        LakeError: an unknown stage.
    """
    unknown = set(stages) - set(LAYOUT_STAGES)
    if unknown:
        raise LakeError(
            f"the layout has no files of {', '.join(sorted(unknown))}; it has: {', '.join(LAYOUT_STAGES)}"
        )
    recipe, report, scores = recipe or ConditionRecipe(), ExportReport(), dict[str, float]()
    planner = Planner(lake, graph)
    known = [graph[name] for name in IMPORTED_STAGES if name in graph.names]
    row_stages = [stage for stage in known if isinstance(stage, RowStage)]
    for shard in planner.snapshot("faces").shards():
        table = planner.table("faces", shard)
        sound = np.flatnonzero(~table.stages[FACES_STAGE].quarantined)
        usable = {stage.name: _usable(table, stage.name) for stage in row_stages}
        for start in range(0, len(sound), ROWS_AT_ONCE):
            places = sound[start : start + ROWS_AT_ONCE]
            for place, row in zip(places.tolist(), _rows(table, places, row_stages), strict=True):
                on_photo(row["image_id"])
                outputs = {stage.name: stage.outputs for stage in row_stages if usable[stage.name][place]}
                files = row_files(row, outputs, stages, recipe)
                _write(root / row["image_id"].rsplit("/", 1)[0], files, report)
                report.photographs.update(_told(outputs, stages))
                if "aesthetics" in outputs:
                    scores[row["image_id"]] = short_float(row["aesthetic_score"])
    if "aesthetics" in stages:
        _write(root, {SCORES_FILE: scores_bytes(scores)}, report)
    return report


def _usable(table: TablePlan, stage: str) -> np.ndarray:
    rows = table.stages[stage]
    return rows.ok & ~rows.waiting


def _told(outputs: Collection[str], stages: Collection[str]) -> list[str]:
    """Stages of which one photograph has files."""
    has = {FACES_STAGE, *outputs}
    has |= {"condition"} if {"landmarks", "iris", "masks"} <= has else set()
    return [stage for stage in stages if stage in has]


def _rows(table: TablePlan, places: np.ndarray, stages: Collection[RowStage]) -> list[dict[str, Any]]:
    names = [*PHOTO_COLUMNS, *(column.name for stage in stages for column in stage.outputs)]
    read = table.snapshot.read_table(table.row_ids[places].tolist(), names)
    columns = [column_values(read[name]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _write(folder: Path, files: dict[str, bytes], report: ExportReport) -> None:
    for name, data in files.items():
        if write_file(folder / name, data):
            report.written += 1
        else:
            report.unchanged += 1


def write_file(path: Path, data: bytes) -> bool:
    """Give a file this content, all at once; returns whether it had another or was not there."""
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
    return True
