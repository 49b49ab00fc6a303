"""What a tree in APPLE's layout says of one photograph: exact values where they still hold, else pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from assets.apple_layout import (
    EXACT_FORMAT,
    IMPORTED_STAGES,
    PULID_FOLDER,
    PULID_NUMBERS,
    SCORES_FILE,
    embedding_file,
    exact_file,
    from_json,
    landmarks_file,
    picture_file,
    sha256,
    short_float,
)
from assets.stage import RowStage, StageGraph
from models.faces.alignment import align_to_ffhq
from models.faces.constants import FACE_CLASSES, PALETTE
from models.faces.dot_recovery import DotsError, recover_dots
from models.faces.images import Image, Mask
from models.faces.parsing import encode_codes, pack_mask
from resources.lake.errors import LakeError

SCORER_NAME = "score.json"
"""`aesthetic_scorer` of scores that the tree gives without saying whose they are."""


@dataclass(frozen=True)
class TreePhoto:
    """One photograph of the tree: its person's folder and stem, upright size and digest of its bytes."""

    folder: Path
    stem: str
    size: tuple[int, int]
    image_sha256: str

    @property
    def name(self) -> str:
        """Its name in `score.json`."""
        return f"{self.folder.name}/{self.stem}"


@dataclass(frozen=True)
class ReadStage:
    """One stage's values by column (None where pictures do not tell), and a sentence on their origin."""

    values: dict[str, Any]
    detail: str
    exact: bool


@dataclass
class ReadPhoto:
    """What was read of one photograph, and what was left aside, with the reason."""

    stages: dict[str, ReadStage] = field(default_factory=dict)
    left_aside: list[str] = field(default_factory=list)


def read_scores(root: Path) -> dict[str, float]:
    """Aesthetic scores by `<person>/<stem>`; empty when the tree has none.

    Raises:
        LakeError: the file is no table of scores.
    """
    path = root / SCORES_FILE
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(entry["aes"]) for name, entry in entries.items() if "aes" in entry}
    except (ValueError, TypeError, AttributeError) as error:
        raise LakeError(
            f'{path} is no table of scores like {{"n000002/0001_01": {{"aes": 5.4}}}}: {error}'
        ) from error


def read_photo_annotations(photo: TreePhoto, graph: StageGraph, scores: Mapping[str, float]) -> ReadPhoto:
    """Everything the tree says of a photograph for the stages of `graph`."""
    found = ReadPhoto()
    exact = _exact(photo, found)
    if exact is None:
        return found
    for name in IMPORTED_STAGES:
        stage = graph[name] if name in graph.names else None
        if not isinstance(stage, RowStage):
            continue
        try:
            read = _from_exact(photo, stage, exact, scores) or _from_pictures(photo, stage, scores)
        except (DotsError, ValueError, OSError) as error:
            found.left_aside.append(f"{photo.name}: {name}: {error}")
            continue
        if read is not None:
            found.stages[name] = read
    _drop_incomplete(photo, graph, found)
    return found


def _exact(photo: TreePhoto, found: ReadPhoto) -> dict[str, Any] | None:
    """The exact values by stage; None when they say that all files here are of another photograph."""
    path = photo.folder / exact_file(photo.stem)
    if not path.is_file():
        return {}
    try:
        exact = json.loads(path.read_bytes())
        known, of_photo, stages = exact["format"], exact["image_sha256"], dict(exact["stages"])
    except (ValueError, TypeError, KeyError) as error:
        found.left_aside.append(f"{photo.name}: {exact_file(photo.stem)} cannot be read: {error!r}")
        return {}
    if known != EXACT_FORMAT:
        found.left_aside.append(f"{photo.name}: {exact_file(photo.stem)} has format {known!r}, not 1")
        return {}
    if of_photo != photo.image_sha256:
        found.left_aside.append(f"{photo.name}: its annotations are of another photograph than is there now")
        return None
    return stages


def _from_exact(
    photo: TreePhoto, stage: RowStage, exact: Mapping[str, Any], scores: Mapping[str, float]
) -> ReadStage | None:
    """Exact values, unless a picture they belong to is another one by now or they are of other columns."""
    entry = exact.get(stage.name)
    if entry is None or {column.name for column in stage.outputs} != set(entry["values"]):
        return None
    for path, digest in entry["files"].items():
        file = photo.folder / path
        if not file.is_file() or sha256(file.read_bytes()) != digest:
            return None
    values = {column.name: from_json(entry["values"][column.name], column) for column in stage.outputs}
    if stage.name == "aesthetics" and scores.get(photo.name) != short_float(values["aesthetic_score"]):
        return None
    return ReadStage(values, f"imported from {photo.folder.name}/{exact_file(photo.stem)}", exact=True)


def _from_pictures(photo: TreePhoto, stage: RowStage, scores: Mapping[str, float]) -> ReadStage | None:
    """What pictures, scores and vectors tell; None where there are none."""
    told: dict[str, Any]
    if stage.name in ("landmarks", "iris"):
        kind = "landmarks" if stage.name == "landmarks" else "iris"
        path = landmarks_file(photo.stem) if kind == "landmarks" else picture_file("iris", photo.stem)
        picture = _picture(photo, path)
        if picture is None:
            return None
        dots = recover_dots(_lit(picture), kind)
        told = {"iris_10": dots.points}
        if kind == "landmarks":
            low, high = dots.points.min(axis=0), dots.points.max(axis=0)
            told = {
                "landmarks_68": dots.points,
                "alignment": align_to_ffhq(dots.points),
                "face_box": np.concatenate([low, high]),
            }
        note = f"{dots.dots} dots told apart, {dots.certain} of them for certain, to the pixel"
    elif stage.name == "masks":
        masks = _masks(photo)
        if masks is None:
            return None
        told, path, note = masks
    elif stage.name == "aesthetics":
        if photo.name not in scores:
            return None
        told = {"aesthetic_score": scores[photo.name], "aesthetic_scorer": SCORER_NAME}
        path, note = SCORES_FILE, "the tree does not say by which scorer"
    else:
        tokens = _tokens(photo, stage)
        if tokens is None:
            return None
        told, path, note = tokens
    values = {column.name: told.get(column.name) for column in stage.outputs}
    where = path if path == SCORES_FILE else f"{photo.folder.name}/{path}"
    return ReadStage(values, f"imported from {where} ({note})", exact=False)


def _masks(photo: TreePhoto) -> tuple[dict[str, Any], str, str] | None:
    """Parsing and visible face from the coloured and the white pictures."""
    whole, cut = (
        _picture(photo, picture_file(kind, photo.stem)) for kind in ("segmap", "segmap_intersection")
    )
    colours = cut if whole is None else whole
    if colours is None:
        return None
    white = _picture(photo, picture_file("mask_intersection", photo.stem))
    shown = cut if white is None else white
    if shown is None:
        raise ValueError("neither segmap_intersection nor mask_intersection tells which part is visible")
    codes = np.zeros(photo.size, np.uint8)
    known = ~colours.any(axis=2)
    for code in FACE_CLASSES:
        here = (colours == PALETTE[code]).all(axis=2)
        codes[here] = code
        known |= here
    if not known.all():
        row, column = np.argwhere(~known)[0]
        raise ValueError(f"colour {tuple(colours[row, column].tolist())} at ({column}, {row}) is no class")
    visible = _lit(shown)
    told = {"parsing": encode_codes(codes), "visible_face": pack_mask(visible)}
    path = picture_file("segmap" if whole is not None else "segmap_intersection", photo.stem)
    return told, path, "classes that are black there count as background"


def _tokens(photo: TreePhoto, stage: RowStage) -> tuple[dict[str, Any], str, str] | None:
    """PuLID's tokens, where the stage's embeddings are such. Other vectors do not say who made them."""
    path = embedding_file(photo.stem, PULID_NUMBERS)
    lengths = {column.name: getattr(column.type, "list_size", 0) for column in stage.outputs}
    if lengths["identity_embedding"] != PULID_NUMBERS or not (photo.folder / path).is_file():
        return None
    values = np.load(photo.folder / path, allow_pickle=False)
    if values.size != PULID_NUMBERS or not np.isfinite(values).all():
        raise ValueError(f"{path} holds {values.shape}, not 32x2048 finite numbers")
    told = {"identity_embedding": values.ravel(), "identity_embedder": PULID_FOLDER}
    return told, path, "the tree does not say of which weights"


def _lit(picture: Image) -> Mask:
    """Where a picture is not black."""
    return np.asarray(picture.any(axis=2), np.bool_)


def _picture(photo: TreePhoto, path: str) -> Image | None:
    """A picture of the photograph's size as RGB; None when it is not there."""
    file = photo.folder / path
    if not file.is_file():
        return None
    with PillowImage.open(file) as opened:
        picture = np.asarray(opened.convert("RGB"), np.uint8)
    if picture.shape[:2] != photo.size:
        raise ValueError(
            f"{path} is {picture.shape[1]}x{picture.shape[0]}, the photograph {photo.size[1]}x{photo.size[0]}"
        )
    return picture


def _drop_incomplete(photo: TreePhoto, graph: StageGraph, found: ReadPhoto) -> None:
    """Leave out stages that lack a column which a stage that will be computed reads."""
    for name in list(found.stages):
        missing = {column for column, value in found.stages[name].values.items() if value is None}
        readers = _readers(graph, name, missing) - found.stages.keys()
        if readers:
            del found.stages[name]
            found.left_aside.append(
                f"{photo.name}: {name} is computed: the tree does not tell {', '.join(sorted(missing))}, "
                f"which {', '.join(sorted(readers))} needs, and nothing was read for that"
            )


def _readers(graph: StageGraph, name: str, columns: Collection[str]) -> set[str]:
    return {
        stage.name
        for stage in graph.row_stages("faces")
        for item in stage.inputs
        if item.stage == name and set(item.columns) & set(columns)
    }
