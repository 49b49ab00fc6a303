"""Take the annotations of a tree in APPLE's layout into the lake instead of computing them.

An imported result has a fingerprint of its own kind: it names the photograph it was read for and neither
code nor settings nor weights. So it stands until its photograph changes, or `orchard run STAGE --force`
computes the stage. Results that this lake has computed itself, and that are fresh, are never replaced.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.apple_layout import IMPORTED_STAGES
from assets.apple_reading import ReadStage, TreePhoto, read_photo_annotations, read_scores
from assets.batches import to_arrow
from assets.plan_rows import TablePlan
from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from resources.lake.commit import commit_group
from resources.lake.digest import imported_fingerprint, row_digest
from resources.lake.errors import CommitConflict, LakeError
from resources.lake.ingest import source_path
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import FACES_STAGE, IMPORTED, STATE_TYPE, Status, state_column
from resources.lake.table import Snapshot, split_addresses

ATTEMPTS = 20


@dataclass
class ImportReport:
    """Rows imported per stage (exact values, or told by pictures), kept as they were, and left aside."""

    exact: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    left_aside: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "exact": dict(self.exact),
            "pictures": dict(self.pictures),
            "kept": dict(self.kept),
            "left_aside": self.left_aside,
        }


@dataclass(frozen=True)
class _Ready:
    """One row of one stage, ready to be written for a photograph of this digest."""

    photograph: bytes
    read: ReadStage


@works_on_lake
def import_apple(lake: Lake, graph: StageGraph, root: Path) -> ImportReport:
    """Read the annotations of all photographs that were ingested from `root`.

    Raises:
        LakeError: `score.json` is damaged, or other writers kept changing the same rows.
    """
    root, report = root.expanduser().resolve(), ImportReport()
    scores = read_scores(root)
    stages = [graph[name] for name in IMPORTED_STAGES if name in graph.names]
    row_stages = [stage for stage in stages if isinstance(stage, RowStage)]
    planner = Planner(lake, graph)
    for shard in planner.snapshot("faces").shards():
        table = planner.table("faces", shard)
        ready: dict[str, dict[int, _Ready]] = {stage.name: {} for stage in row_stages}
        for place, photo in _photos(table, shard, root):
            found = read_photo_annotations(photo, graph, scores)
            report.left_aside += found.left_aside
            digest = table.stages[FACES_STAGE].digest[place].as_py()
            for name, read in found.stages.items():
                ready[name][int(table.row_ids[place])] = _Ready(digest, read)
        for stage in row_stages:
            if ready[stage.name]:
                _commit(Planner(lake, graph), stage, shard, ready[stage.name], report)
    return report


def _photos(table: TablePlan, shard: str, root: Path) -> list[tuple[int, TreePhoto]]:
    """Sound photographs of a shard that came from the tree, with their places in the plan."""
    names = ["source", "width", "height", "image_sha256"]
    rows = table.snapshot.scan(names, shard=shard).select(names).to_pylist()
    photos = []
    for place in np.flatnonzero(~table.stages[FACES_STAGE].quarantined).tolist():
        row = rows[place]
        path = source_path(row["source"])
        if path.parent.parent == root:
            size = (row["height"], row["width"])
            photos.append((place, TreePhoto(path.parent, path.stem, size, row["image_sha256"])))
    return photos


def _commit(
    planner: Planner, stage: RowStage, shard: str, ready: Mapping[int, _Ready], report: ImportReport
) -> None:
    for attempt in range(ATTEMPTS):
        planner = planner if attempt == 0 else Planner(planner.lake, planner.graph)
        table = planner.table("faces", shard)
        chosen = _chosen(table, stage, ready)
        fragments, offsets = split_addresses(pa.array(table.addresses))
        by_fragment: dict[int, dict[int, _Ready]] = {}
        for place, item in chosen.items():
            by_fragment.setdefault(int(fragments[place]), {})[int(offsets[place])] = item
        try:
            for fragment, items in sorted(by_fragment.items()):
                group = _group(table.snapshot, stage, fragment, items)
                commit_group(table.snapshot, fragment, group, {"stage": stage.name, "shard": shard})
        except CommitConflict:
            time.sleep(0.05 * (attempt + 1))
            continue
        counts = Counter(item.read.exact for item in chosen.values())
        for counter, count in (
            (report.exact, counts[True]),
            (report.pictures, counts[False]),
            (report.kept, len(ready) - len(chosen)),
        ):
            if count:
                counter[stage.name] += count
        return
    raise LakeError(f"{stage.name} {shard}: other writers kept changing the same rows; import again later")


def _chosen(table: TablePlan, stage: RowStage, ready: Mapping[int, _Ready]) -> dict[int, _Ready]:
    """Rows to write by place: those without a fresh result, and imported ones that read otherwise now."""
    rows = table.stages[stage.name]
    chosen: dict[int, _Ready] = {}
    for place, row_id in enumerate(table.row_ids.tolist()):
        item = ready.get(row_id)
        if item is None or table.stages[FACES_STAGE].digest[place].as_py() != item.photograph:
            continue
        imported = rows.stored[place].as_py() == imported_fingerprint(item.photograph)
        same = imported and rows.digest[place].as_py() == row_digest(item.read.values, stage.outputs)
        if not same and (rows.stale[place] or imported):
            chosen[place] = item
    return chosen


def _group(snapshot: Snapshot, stage: RowStage, fragment: int, items: Mapping[int, _Ready]) -> pa.Table:
    """The fragment's column group with the imported rows put in, one entry per physical row."""
    old = snapshot.fragment_columns(fragment, [field.name for field in stage.group_fields])
    _, live_offsets = split_addresses(old["_rowaddr"])
    source = np.full(snapshot.fragment_rows(fragment), -1, np.int64)  # -1: a row that was deleted
    source[live_offsets] = np.arange(old.num_rows)
    for index, offset in enumerate(items):
        source[offset] = old.num_rows + index
    new = {
        column.name: to_arrow([item.read.values[column.name] for item in items.values()], column.type)
        for column in stage.outputs
    }
    new[state_column(stage.name)] = pa.array([_state(stage, item) for item in items.values()], STATE_TYPE)
    take = pa.array(np.maximum(source, 0), mask=source < 0)
    arrays = [
        pa.chunked_array([*old[field.name].chunks, new[field.name]], type=field.type)
        .combine_chunks()
        .take(take)
        for field in stage.group_fields
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(stage.group_fields))


def _state(stage: RowStage, item: _Ready) -> dict[str, Any]:
    return {
        "fingerprint": imported_fingerprint(item.photograph),
        "digest": row_digest(item.read.values, stage.outputs),
        "status": Status.OK.value,
        "attempt": 1,
        "code_version": IMPORTED,
        "reason": None,
        "detail": item.read.detail,
    }
