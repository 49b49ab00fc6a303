"""The swap grid: every picture of an evaluation pair, from the photographs to the exact answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from assets.condition import ConditionNames, ConditionStageConfig, row_frame
from assets.diffface_config import DIFFFACE, DIFFFACE_SWAPS
from assets.planner import Planner
from assets.previews import encode_png, letterbox
from assets.recipe_view import RecipeView
from assets.release import METHODS
from assets.stage import RowStage
from models.faces.frame import frame_condition
from pipeline.report.data import Picture, SwapRow, SwapTile
from pipeline.report.wording import method
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright
from resources.photos.marking import MarkError, read_mark
from resources.photos.reasons import RowError

PAIRS_SHOWN = 12
PHOTO_SIDE = 128
"""Side of the source's picture in the page, px."""

PIXELATED_BELOW = 128
"""Pictures with a side below this are enlarged without smoothing, px."""

ANNOTATION = ("parsing", "visible_face", "landmarks_68", "iris_10")


@dataclass(frozen=True)
class Pair:
    """A pair of the swap table, and the positions of its rows there by method."""

    pair_id: str
    source_id: str
    target_id: str
    rows: Mapping[str, int]


def swap_rows(
    planner: Planner, config: ConditionStageConfig, view: RecipeView
) -> tuple[tuple[SwapRow, ...], int]:
    """The first pairs by name, at most `PAIRS_SHOWN`, and how many there are. Nothing is hand-picked.

    `config` says at which size and how condition images are rendered.
    """
    stage = planner.graph[view.own("swaps")]
    if not isinstance(stage, RowStage):
        raise TypeError("swaps is not a row stage")
    pairs = _pairs(planner, stage.table)
    shown = pairs[:PAIRS_SHOWN]
    photos = _photographs(planner, shown, view.condition)
    truths = _truths(planner.lake, shown)
    swaps = _swap_tiles(planner, stage, {pair.pair_id: pair.rows for pair in shown}, METHODS, config.size)
    diffface = _diffface_tiles(planner, shown, config.size)
    rows = []
    for pair in shown:
        tiles = [
            _source_tile(photos.get(pair.source_id)),
            *_target_tiles(planner, config, view, pair.target_id, photos.get(pair.target_id)),
            *swaps[pair.pair_id],
            *diffface.get(pair.pair_id, ()),
            _truth_tile(truths.get(pair.pair_id), config.size),
        ]
        rows.append(SwapRow(pair.pair_id, pair.source_id, pair.target_id, tuple(tiles)))
    return tuple(rows), len(pairs)


def _pairs(planner: Planner, table: str) -> list[Pair]:
    """All pairs of the swap table, by name."""
    names = ["pair_id", "source_image_id", "target_image_id", "method"]
    index = planner.table(table).index
    methods: dict[str, list[dict[str, str]]] = {}
    for row in planner.snapshot(table).scan(names).select(names).to_pylist():
        methods.setdefault(row["pair_id"].removesuffix(f"__{row['method']}"), []).append(row)
    return [
        Pair(
            pair_id,
            rows[0]["source_image_id"],
            rows[0]["target_image_id"],
            {row["method"]: index[row["pair_id"]] for row in rows},
        )
        for pair_id, rows in sorted(methods.items())
    ]


def _photographs(planner: Planner, pairs: list[Pair], condition: ConditionNames) -> dict[str, dict[str, Any]]:
    snapshot = planner.snapshot("faces")
    names = [name for name in ("image", *ANNOTATION, condition.sha256) if name in snapshot.columns]
    ids = {pair.source_id for pair in pairs} | {pair.target_id for pair in pairs}
    photos = snapshot.find(sorted(ids), names)
    for row in photos.values():
        row["image"] = _decoded(row["image"])
    return photos


def _truths(lake: Lake, pairs: list[Pair]) -> dict[str, bytes | None]:
    found = lake.swap_pairs.snapshot().find([pair.pair_id for pair in pairs], ["truth"])
    return {pair_id: row["truth"] for pair_id, row in found.items()}


def _decoded(data: bytes | None) -> np.ndarray | str:
    """The picture, RGB uint8, or the words that stand in its place."""
    if data is None:
        return "quarantined"
    try:
        return decode_upright(data)
    except RowError as error:
        return error.reason.value


def _source_tile(photo: Mapping[str, Any] | None) -> SwapTile:
    if photo is None:
        return SwapTile("source", None, "photograph gone")
    if isinstance(photo["image"], str):
        return SwapTile("source", None, photo["image"])
    return SwapTile("source", _picture(letterbox(photo["image"], PHOTO_SIDE), "source photograph"))


def _target_tiles(
    planner: Planner,
    config: ConditionStageConfig,
    view: RecipeView,
    target_id: str,
    photo: Mapping[str, Any] | None,
) -> list[SwapTile]:
    """Target and condition as the model sees them: resized to its square."""
    if photo is None or isinstance(photo["image"], str):
        words = photo["image"] if photo else "photograph gone"
        return [SwapTile("target", None, words), SwapTile("condition", None, "no photograph")]
    faces = planner.table("faces")
    if not faces.stages[view.condition.condition].ok[faces.index[target_id]]:
        # masks and points of another photograph would be drawn over this one
        square = cv2.resize(photo["image"], (config.size, config.size), interpolation=cv2.INTER_AREA)
        target = _picture(square, f"target at {config.size} px")
        return [SwapTile("target", target), SwapTile("condition", None, "not annotated")]
    points = {name: np.asarray(photo[name], np.float32) for name in ("landmarks_68", "iris_10")}
    frame = row_frame({**photo, **points}, config.size)
    condition = frame_condition(frame, config.image)
    # a digest that differs says that the drawing code changed without a new code version of its stage
    recorded = hashlib.sha256(condition.tobytes()).hexdigest() == photo[view.condition.sha256]
    return [
        SwapTile("target", _picture(frame.image, f"target at {config.size} px")),
        SwapTile(
            "condition",
            _picture(condition, "condition image: face squeezed to 8 by 8, dots on top"),
            "" if recorded else "not the picture that was recorded: drawn by changed code",
        ),
    ]


def _truth_tile(data: bytes | None, size: int) -> SwapTile:
    if data is None:
        return SwapTile("truth", None, "no truth")
    picture = _decoded(data)
    if isinstance(picture, str):
        return SwapTile("truth", None, picture)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return SwapTile("truth", _picture(small, f"exact answer at {size} px"))


def _diffface_tiles(planner: Planner, pairs: list[Pair], size: int) -> dict[str, list[SwapTile]]:
    """DiffFace's tile by pair id; it swaps the default recipe's pairs, and some profiles are without it."""
    if DIFFFACE_SWAPS not in planner.graph.names:
        return {}
    stage = planner.graph[DIFFFACE_SWAPS]
    if not isinstance(stage, RowStage):
        raise TypeError(f"{DIFFFACE_SWAPS} is not a row stage")
    index = planner.table(stage.table).index
    rows = {pair.pair_id: {DIFFFACE: index[pair.pair_id]} for pair in pairs if pair.pair_id in index}
    return _swap_tiles(planner, stage, rows, (DIFFFACE,), size)


def _swap_tiles(
    planner: Planner,
    stage: RowStage,
    rows: Mapping[str, Mapping[str, int]],
    methods: Sequence[str],
    size: int,
) -> dict[str, list[SwapTile]]:
    """Tiles of every method by pair id. The stored bytes go into the page as they are, mark included.

    `rows` are the positions in the stage's table, by pair id and method.
    """
    table = planner.table(stage.table)
    state = table.stages[stage.name]
    computed, outdated = ~state.pending & ~state.quarantined, state.stale | state.waiting
    positions = [place for own in rows.values() for place in own.values() if computed[place]]
    pictures: dict[int, bytes] = {}
    if positions:
        read = table.snapshot.read_table(table.row_ids[positions].tolist(), ["swap"])
        pictures = dict(zip(positions, read["swap"].to_pylist(), strict=True))
    tiles: dict[str, list[SwapTile]] = {}
    for pair_id, own in rows.items():
        tiles[pair_id] = []
        for key in methods:
            place, name = own.get(key), method(key).name
            if place in pictures:
                tile = _swap_tile(name, pictures[place], size, bool(outdated[place]))
            elif place is not None and state.quarantined[place]:
                tile = SwapTile(name, None, f"quarantined: {state.reason[place].as_py()}", swapped=True)
            else:
                tile = SwapTile(name, None, "not made yet", swapped=True)
            tiles[pair_id].append(tile)
    return tiles


def _swap_tile(name: str, data: bytes, size: int, outdated: bool) -> SwapTile:
    try:
        mark = read_mark(data)
    except MarkError as error:
        mark, title = None, f"mark unreadable: {error}"
    else:
        title = (
            f"model {mark.model_id}, stage {mark.stage}, {mark.consent}"
            if mark
            else "this picture has no mark"
        )
    words = ["" if mark else "no readable mark", "outdated" if outdated else ""]
    picture = Picture(data, f"swap by {name}", title, size < PIXELATED_BELOW)
    model_id = mark.model_id if mark else None
    return SwapTile(name, picture, ", ".join(filter(None, words)), swapped=True, model_id=model_id)


def _picture(pixels: np.ndarray, alt: str) -> Picture:
    return Picture(encode_png(pixels), alt, alt, min(pixels.shape[:2]) < PIXELATED_BELOW)
