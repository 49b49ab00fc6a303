"""Scores in the paper's profile: ArcFace and expression coefficients; the published networks in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.annotating import annotate_pictures
from assets.runner import load_model
from assets.stage import RowStage, StageContext, StageGraph
from assets.swapping import SOURCE, TARGET
from assets.triplet_scores import scores_config, triplet_scores_stage
from models.worlds.portraits import write_portraits
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError

SIZE = 192


def quiet(text: str) -> None:
    """Takes what stages report."""


def test_the_paper_compares_arcface_and_coefficients(
    tmp_path: Path, published_graph: StageGraph, published_weights: Path
) -> None:
    write_portraits(tmp_path / "world", identities=2, photos=1, size=SIZE, swap_pairs=1, held_out=2)
    files = [path.read_bytes() for path in sorted((tmp_path / "world" / "photos").rglob("*.jpg"))]
    lake = Lake.open(tmp_path / "lake", create=True)
    annotation = published_graph.needed_for(["landmarks", "aesthetics", "identity_embedding"])
    photographs = annotate_pictures(
        [{"image": decode_upright(data)} for data in files],
        annotation,
        lambda stage: load_model(lake, annotation, stage, "cpu", quiet),
    )
    row: dict[str, Any] = {"pair_id": "p", SOURCE: "a", TARGET: "b"}
    for side, photograph in zip((SOURCE, TARGET), photographs, strict=True):
        assert not isinstance(photograph, RowError), photograph
        row |= {f"{side}.{name}": value for name, value in photograph.items()}
        row |= {f"{side}.width": SIZE, f"{side}.height": SIZE}
    stage = triplet_scores_stage(scores_config(annotation.row_stages()), annotation.row_stages())
    assert isinstance(stage, RowStage)
    model = stage.load(StageContext(lake, stage.resolve_weights(), "cpu", quiet))
    copied, source = model([{**row, "swapped": files[1]}, {**row, "swapped": files[0]}])
    assert not isinstance(copied, RowError)
    assert not isinstance(source, RowError)
    assert copied["identity_leak"] == pytest.approx(1.0, abs=1e-5)
    assert copied["pose_difference"] == pytest.approx(0.0, abs=1e-3)
    assert copied["expression_difference"] == pytest.approx(0.0, abs=1e-4)
    assert source["identity_similarity"] == pytest.approx(1.0, abs=1e-5)
    first, second = (row[f"{side}.coefficients_257"][80:144] for side in (SOURCE, TARGET))
    assert source["expression_difference"] == pytest.approx(float(np.linalg.norm(first - second)), rel=1e-4)
    one, other = (row[f"{side}.arcface_512"].astype(np.float64) for side in (SOURCE, TARGET))
    cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert source["identity_leak"] == pytest.approx(cosine, abs=1e-4)
    assert copied["swap_aesthetic_score"] == pytest.approx(row[f"{TARGET}.aesthetic_score"], abs=1e-3)
