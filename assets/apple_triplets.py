"""Write pseudo triplets under the names that APPLE's generator gives them, as its student loader reads them.

    <source id>_<source photograph>_<target id>_<target photograph>.png    the swapped picture, marked
    grid/<the same>.jpg       source, target, condition image and swapped picture side by side, marked
    pairs.csv                 source,target,picture: image ids, and the name of the picture
    score.json                {"<the same>": {"aes": 5.43}}, where `triplet_scores` knows a score
    orchard.json              says that the folder is such an export

The loader knows a triplet by its name alone and raises at any other, so ids must be as in VGGFace2-HQ: people
`n000002`, photographs `0001_01`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assets.apple_export import write_file
from assets.apple_layout import SCORES_FILE, scores_bytes, short_float
from assets.batches import column_values
from assets.condition import ConditionStageConfig, row_frame
from assets.plan_rows import TablePlan
from assets.planner import Planner
from assets.previews import tile_row
from assets.recipe_view import DEFAULT_VIEW, RecipeView
from assets.stage import StageGraph
from assets.swapping import SOURCE, TARGET
from assets.triplet_scores import SMALL_PICTURES
from assets.triplets_release import released_triplets
from models.faces.frame import frame_condition
from resources.lake.consent import GENERATIVE_CONSENTS
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.photos.decoding import decode_upright
from resources.photos.marking import mark_jpeg, read_mark

ORIGINAL_PERSON, ORIGINAL_PHOTOGRAPH = re.compile(r"n\d{6}"), re.compile(r"\d{4}_\d{2}")
"""What APPLE's student loader takes for a person and for a photograph in a picture's name."""

FOLDER_FILE, PAIRS_FILE, GRIDS = "orchard.json", "pairs.csv", "grid"
FOLDER_CONTENT = b'{"format": 1, "layout": "apple-triplets"}\n'
GRID_SIDE = 512
ROWS_AT_ONCE = 32
PHOTO_COLUMNS = ("image", "parsing", "visible_face", "landmarks_68", "iris_10")


@dataclass
class TripletExport:
    """How many triplets were exported, files written or there already, and what was left out or is amiss."""

    triplets: int = 0
    written: int = 0
    unchanged: int = 0
    scored: int = 0
    foreign_names: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    others_there: int = 0

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**vars(self), "left_out": dict(sorted(self.left_out.items()))}


class _Chosen(NamedTuple):
    """A triplet to write: whether its scores are today's, its name, whether that is as the loader wants."""

    scored: bool
    stem: str
    original: bool


def picture_stem(source: str, target: str) -> tuple[str, bool]:
    """Name of a triplet's picture without its suffix, and whether APPLE's student loader takes it.

    Where an id is not as in VGGFace2-HQ, each of the four parts has its `%`, `_` and `/` written as `%XX`, so
    that two triplets never share a name.
    """
    parts = [*source.split("/", 1), *target.split("/", 1)]
    original = len(parts) == 4 and all(
        (ORIGINAL_PHOTOGRAPH if place % 2 else ORIGINAL_PERSON).fullmatch(part)
        for place, part in enumerate(parts)
    )
    if not original:
        parts = [re.sub("[%_/]", lambda found: f"%{ord(found[0]):02X}", part) for part in parts]
    return "_".join(parts), original


@works_on_lake
def export_triplets(
    lake: Lake,
    graph: StageGraph,
    root: Path,
    *,
    released: bool = False,
    any_names: bool = False,
    view: RecipeView = DEFAULT_VIEW,
    on_triplet: Callable[[str], None] = lambda pair_id: None,
) -> TripletExport:
    """Write every triplet that is ok and fresh today and whose photographs may be used.

    Safe to repeat after a kill: files that are there and equal are not written again, and no half-written
    file has a final name. Pictures of triplets that are gone stay and are counted in `others_there`.

    Args:
        lake: where the triplets are.
        graph: the profile's stages.
        root: the folder; absent, empty, or an earlier export.
        released: only those of the current `triplets_release`.
        any_names: write names, too, that APPLE's student loader refuses.
        on_triplet: told each triplet's id before it is written.

    Raises:
        LakeError: `root` holds something else; names that the loader refuses; no release where one is asked.
    """
    report, planner = TripletExport(), Planner(lake, graph)
    stage = graph[view.condition.condition]
    assert isinstance(stage.config, ConditionStageConfig)  # every profile's
    chosen = _chosen(lake, planner, released, report, view)
    foreign = [pair for pair, item in chosen.items() if not item.original]
    report.foreign_names = len(foreign)
    if foreign and not any_names:
        raise LakeError(
            f"{len(foreign)} of {len(chosen)} triplets have names that APPLE's student loader refuses, e.g. "
            f"{foreign[0]}: it wants people like n000002 and photographs like 0001_01. Nothing was written; "
            "--any-names writes them all the same"
        )
    _claim(root)
    scores: dict[str, float] = {}
    pairs = [("source", "target", "picture")]
    table = planner.table(view.own("triplets"))
    wanted = [place for place, key in enumerate(table.keys) if key in chosen]
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        for row in _rows(lake, table, wanted[start : start + ROWS_AT_ONCE], graph, view):
            on_triplet(row["pair_id"])
            scored, stem, _original = chosen[row["pair_id"]]
            # the grid first: a picture that stands has its grid beside it
            picture, grid = root / f"{stem}.png", root / GRIDS / f"{stem}.jpg"
            if grid.is_file() and picture.is_file() and picture.read_bytes() == row["swapped"]:
                report.unchanged += 2
            else:
                _write(grid, _grid(row, stage.config), report)
                _write(picture, row["swapped"], report)
            pairs.append((row[SOURCE], row[TARGET], picture.name))
            if scored and row.get("swap_aesthetic_score") is not None:
                scores[stem] = short_float(row["swap_aesthetic_score"])
    report.triplets, report.scored = len(wanted), len(scores)
    _write(root / PAIRS_FILE, _csv(pairs), report)
    _write(root / SCORES_FILE, scores_bytes(scores), report)
    names = {name for _, _, name in pairs[1:]}
    report.others_there = sum(path.name not in names for path in root.glob("*.png"))
    return report


def _chosen(
    lake: Lake, planner: Planner, released: bool, report: TripletExport, view: RecipeView
) -> dict[str, _Chosen]:
    """The triplets to write, by pair id, sorted; counts the others in the report."""
    table, scores = planner.table(view.own("triplets")), view.own("triplet_scores")
    good = _fresh(table, view.own("pseudo_triplets"))
    scored = _fresh(table, scores) if scores in table.stages else np.zeros_like(good)
    ends = table.snapshot.scan(["pair_id", SOURCE, TARGET]).to_pylist()
    photographs = planner.snapshot("faces").scan(["image_id", "consent"])
    consents = dict(zip(photographs["image_id"].to_pylist(), photographs["consent"].to_pylist(), strict=True))
    members = _members(lake, view) if released else None
    chosen: dict[str, _Chosen] = {}
    for row in sorted(ends, key=lambda row: row["pair_id"]):
        place = table.index[row["pair_id"]]
        if members is not None and row["pair_id"] not in members:
            report.left_out["not released"] += 1
        elif not good[place]:
            report.left_out["not ok or not fresh"] += 1
        elif not all(consents.get(row[side]) in GENERATIVE_CONSENTS for side in (SOURCE, TARGET)):
            report.left_out["consent"] += 1
        else:
            chosen[row["pair_id"]] = _Chosen(bool(scored[place]), *picture_stem(row[SOURCE], row[TARGET]))
    return chosen


def _fresh(table: TablePlan, stage: str) -> np.ndarray:
    rows = table.stages[stage]
    return rows.ok & ~rows.waiting


def _members(lake: Lake, view: RecipeView) -> set[str]:
    artifact = lake.current_artifact(view.own("triplets_release"))
    if artifact is None:
        raise LakeError("there is no release of triplets yet; `orchard run triplets_release` makes it")
    return set(released_triplets(lake, artifact))


def _claim(root: Path) -> None:
    """Make the folder one of ours, or refuse it."""
    note = root / FOLDER_FILE
    if note.is_file() and note.read_bytes() == FOLDER_CONTENT:
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise LakeError(
            f"{root} holds something that is no export of triplets; name a folder that is empty or not "
            "there, so that nothing is overwritten and the student loader finds nothing but triplets"
        )
    write_file(note, FOLDER_CONTENT)


def _write(path: Path, data: bytes, report: TripletExport) -> None:
    if write_file(path, data):
        report.written += 1
    else:
        report.unchanged += 1


def _rows(
    lake: Lake, table: TablePlan, places: Sequence[int], graph: StageGraph, view: RecipeView
) -> list[dict[str, Any]]:
    """Triplets with their photographs' columns as `<end>.<column>`."""
    names = ["pair_id", SOURCE, TARGET, "swapped"]
    if view.own("triplet_scores") in graph.names:
        names.append("swap_aesthetic_score")
    read = table.snapshot.read_table(table.row_ids[list(places)].tolist(), names)
    columns = [column_values(read[name]) for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    ids = sorted({row[side] for row in rows for side in (SOURCE, TARGET)})
    photographs = lake.faces.snapshot().find(ids, PHOTO_COLUMNS)
    for row in rows:
        row |= {
            f"{side}.{name}": photographs[row[side]][name]
            for side in (SOURCE, TARGET)
            for name in PHOTO_COLUMNS
        }
    return rows


def _grid(row: Mapping[str, Any], config: ConditionStageConfig) -> bytes:
    """Source, target, condition image and swapped picture, as a JPEG with the picture's own mark."""
    mark = read_mark(row["swapped"])
    if mark is None:
        raise LakeError(
            f"the picture of {row['pair_id']} carries no mark; `orchard run pseudo_triplets --force`"
        )
    source, target = (decode_upright(row[f"{side}.image"]) for side in (SOURCE, TARGET))
    points = {name: np.asarray(row[f"{TARGET}.{name}"], np.float32) for name in ("landmarks_68", "iris_10")}
    masks = {name: row[f"{TARGET}.{name}"] for name in ("parsing", "visible_face")}
    frame = row_frame({"image": target, **points, **masks}, config.size)
    condition = frame_condition(frame, config.image)
    swapped = decode_upright(row["swapped"], SMALL_PICTURES)
    return mark_jpeg(tile_row([source, target, condition, swapped], GRID_SIDE), mark)


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
