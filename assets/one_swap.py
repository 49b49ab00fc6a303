"""One swap outside the lake: two photographs through the same stages that annotate the lake's rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assets.runner import load_model
from assets.stage import RowStage, StageGraph
from assets.swapping import SOURCE, TARGET, picture_mark, swap_rows
from assets.swaps import SwapModels, SwapsConfig
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright, read_photo
from resources.photos.layouts import escape
from resources.photos.marking import Mark, mark_png
from resources.photos.reasons import RowError

SOURCE_STAGE, TARGET_STAGE = "identity_embedding", "latents"
"""What a swap reads of its two photographs; what these depend on is the profile's business."""


@dataclass(frozen=True)
class SwapRequest:
    """What to swap: two photographs, the statement of consent, and how."""

    source: Path
    target: Path
    consent: str
    method: str = "student"
    id_guidance_scale: float | None = None
    seed: int = 0


def swap_photographs(
    lake: Lake, graph: StageGraph, request: SwapRequest, device: str = "auto"
) -> tuple[bytes, Mark]:
    """The swapped picture as a marked PNG, and its mark.

    Raises LakeError when a photograph cannot be used (no face, ...) or the lake has no trained model yet.
    """
    notes: list[str] = []
    source = _annotate(lake, graph, request.source, SOURCE_STAGE, device, notes)
    target = _annotate(lake, graph, request.target, TARGET_STAGE, device, notes)
    stage = graph["swaps"]
    if not isinstance(stage, RowStage) or not isinstance(stage.config, SwapsConfig):
        raise LakeError("this profile has no swaps stage")
    models = load_model(lake, graph, stage, device, notes.append)
    assert isinstance(models, SwapModels)  # the swaps stage loads nothing else
    row: dict[str, Any] = {
        "pair_id": f"{request.seed}",
        f"{SOURCE}.identity_embedding": source["identity_embedding"],
        f"{TARGET}.latent_target": target["latent_target"],
        f"{TARGET}.latent_condition": target["latent_condition"],
    }
    name, condition, sampling = models.recipe(request.method)
    if request.id_guidance_scale is not None:
        sampling = sampling.model_copy(update={"id_guidance_scale": request.id_guidance_scale})
    pictures = swap_rows(models.swappers[name], [row], condition, sampling)[1]
    mark = picture_mark(
        model_id=models.model_ids[name],
        stage=f"swap/{request.method}",
        source=photo_id(request.source),
        target=photo_id(request.target),
        consent=request.consent,
    )
    return mark_png(pictures[0], mark), mark


def photo_id(path: Path) -> str:
    """What a mark calls a photograph that is in no lake: its name and the start of its bytes' SHA-256."""
    return f"{escape(path.name)} sha256:{hashlib.sha256(read_photo(path)).hexdigest()[:16]}"


def _annotate(
    lake: Lake, graph: StageGraph, path: Path, last: str, device: str, notes: list[str]
) -> dict[str, Any]:
    """One photograph's columns up to the stage `last`, computed by the very stages that fill the lake."""
    try:
        row: dict[str, Any] = {"image": decode_upright(read_photo(path))}
    except RowError as error:
        raise LakeError(f"{path}: {error}") from error
    for stage in graph.needed_for([last]).stages:
        assert isinstance(stage, RowStage)  # annotation stages all are
        (outcome,) = load_model(lake, graph, stage, device, notes.append)([row])
        if isinstance(outcome, RowError):
            raise LakeError(f"{path} cannot be used: {outcome}")
        row |= {
            key: np.asarray(value).ravel() if isinstance(value, np.ndarray) else value
            for key, value in outcome.items()
        }
    return row
