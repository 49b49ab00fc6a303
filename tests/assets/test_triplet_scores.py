"""Scores of swapped pictures against pictures whose scores are known: copies, exact swaps, no face at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from assets.apple_layout import encode_png
from assets.landmarks import LandmarksConfig, landmarks_stage
from assets.runner import load_model
from assets.stage import RowOutcome, RowStage, StageGraph
from assets.swapping import SOURCE, TARGET
from assets.triplet_scores import SCORES, TripletScoresConfig, scores_config, triplet_scores_stage
from pipeline.profiles import annotation_of_the_paper, annotation_on_the_cpu, profile
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError

NAMES = [column.name for column in SCORES]
COLUMNS = ["image", "width", "height", "identity_embedding", "mesh_478", "pose"]


@pytest.fixture(scope="module")
def graph() -> StageGraph:
    torch.set_num_threads(1)
    return profile("smoke").graph()


def values(outcome: RowOutcome) -> dict[str, Any]:
    assert not isinstance(outcome, RowError), outcome
    return dict(outcome)


def pair_row(photos: Mapping[str, Mapping[str, Any]], source: str, target: str) -> dict[str, Any]:
    """A triplet's row as the runner reads it, without the swapped picture."""
    row: dict[str, Any] = {"pair_id": "p", SOURCE: source, TARGET: target}
    for side in (SOURCE, TARGET):
        for name, value in photos[row[side]].items():
            row[f"{side}.{name}"] = np.asarray(value, np.float32) if isinstance(value, list) else value
    return row


@pytest.fixture(scope="module")
def score(smoke_lake, graph: StageGraph) -> Callable[[list[dict[str, Any]]], list[RowOutcome]]:
    stage = graph["triplet_scores"]
    assert isinstance(stage, RowStage)
    return lambda rows: list(load_model(smoke_lake.lake, graph, stage, "cpu", lambda text: None)(rows))


@pytest.fixture(scope="module")
def scored(smoke_lake, score) -> dict[str, dict[str, Any]]:
    """Outcomes for one pair, by which picture stands for the swap."""
    lake = smoke_lake.lake
    pair = lake.swap_pairs.snapshot().dataset.to_table().to_pylist()[0]
    photos = lake.faces.snapshot().find([pair[SOURCE], pair[TARGET]], COLUMNS)
    target = photos[pair[TARGET]]["image"]
    pixels = decode_upright(target)
    height, width = pixels.shape[:2]
    corner = np.full((4 * height, 4 * width, 3), 128, np.uint8)
    corner[:height, :width] = pixels
    pictures = {
        "target": target,
        "source": photos[pair[SOURCE]]["image"],
        "squeezed": encode_png(
            np.asarray(cv2.resize(pixels, (width, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
        ),
        "elsewhere": encode_png(corner),
        "nothing": encode_png(np.full((32, 32, 3), 90, np.uint8)),
    }
    row = pair_row(photos, pair[SOURCE], pair[TARGET])
    outcomes = score([{**row, "swapped": picture} for picture in pictures.values()])
    outcomes += score([{**row, "swapped": pictures["source"]}])
    return {name: values(outcome) for name, outcome in zip([*pictures, "alone"], outcomes, strict=True)}


def test_a_copy_of_the_target_keeps_everything_and_leaks(scored) -> None:
    copied = scored["target"]
    assert copied["face_found"]
    assert copied["face_reason"] is None
    assert copied["identity_leak"] > 0.9999
    assert copied["pose_difference"] < 0.1
    assert copied["expression_difference"] < 0.001


def test_the_source_itself_has_its_identity_and_another_pose(scored) -> None:
    source, copied = scored["source"], scored["target"]
    assert source["identity_similarity"] > 0.9999
    # who is like whom does not depend on who is the source
    assert source["identity_leak"] == pytest.approx(copied["identity_similarity"], abs=1e-3)
    assert source["pose_difference"] > 5
    assert source["expression_difference"] > 0.05


def test_exact_swaps_are_nearer_to_the_source_and_keep_the_pose(smoke_lake, score) -> None:
    """The rendered answers of the swap pairs, beside copies of their targets."""
    lake = smoke_lake.lake
    pairs = lake.swap_pairs.snapshot().dataset.to_table().to_pylist()
    ids = sorted({pair[side] for pair in pairs for side in (SOURCE, TARGET)})
    photos = lake.faces.snapshot().find(ids, COLUMNS)
    rows = [pair_row(photos, pair[SOURCE], pair[TARGET]) for pair in pairs]
    exact = score([{**row, "swapped": pair["truth"]} for row, pair in zip(rows, pairs, strict=True)])
    copied = score([{**row, "swapped": row[f"{TARGET}.image"]} for row in rows])
    found = [
        (values(swap), values(copy))
        for swap, copy in zip(exact, copied, strict=True)
        if values(swap)["face_found"]
    ]
    assert len(found) >= 3
    for swap, copy in found:
        assert swap["identity_similarity"] > copy["identity_similarity"]
        assert swap["identity_leak"] < copy["identity_leak"]
        assert swap["pose_difference"] < 4
        assert 0 < swap["swap_aesthetic_score"] <= 10


def test_the_frame_is_brought_back_to_the_photographs_shape(scored) -> None:
    """A model's frame of a photograph of another shape must not look like another pose or face."""
    squeezed = scored["squeezed"]
    assert squeezed["face_found"]
    assert squeezed["identity_leak"] > 0.98
    assert squeezed["pose_difference"] < 4
    assert squeezed["expression_difference"] < 0.05


@pytest.mark.parametrize("picture", ["nothing", "elsewhere"])
def test_no_face_is_a_result_and_no_failure(scored, picture: str) -> None:
    assert scored[picture] == {"face_found": False, "face_reason": "no_face", **dict.fromkeys(NAMES)}


def test_a_batch_scores_as_a_single_row(scored) -> None:
    for name in NAMES:
        assert scored["source"][name] == pytest.approx(scored["alone"][name], abs=1e-4)


def test_every_triplet_of_a_lake_is_scored(smoke_lake) -> None:
    lake = smoke_lake.lake
    rows = lake.triplets.snapshot().scan(["face_found", *NAMES, "triplet_scores_state"]).to_pylist()
    assert smoke_lake.computed["triplet_scores"] == len(rows) == 6
    for row in rows:
        assert row["triplet_scores_state"]["status"] == "ok"
        assert all((row[name] is not None) == row["face_found"] for name in NAMES)


def test_the_paper_scores_by_arcface_and_coefficients() -> None:
    paper, small = scores_config(annotation_of_the_paper()), scores_config(annotation_on_the_cpu())
    assert (paper.identity, paper.expression) == ("arcface_512", "coefficients")
    assert (small.identity, small.expression) == ("identity_embedding", "mesh")
    stage = profile("flux-krea").graph()["triplet_scores"]
    read = {(item.stage, item.via): item.columns for item in stage.inputs}
    assert read["identity_embedding", SOURCE] == read["identity_embedding", TARGET] == ("arcface_512",)
    assert "coefficients_257" in read["landmarks", TARGET]
    assert {"antelopev2", "reconstruction_resnet50", "clip_vit_l14"} <= set(stage.weights)


def test_scores_depend_on_what_annotates_and_not_on_the_batch_size() -> None:
    config, annotation = TripletScoresConfig(), annotation_on_the_cpu()
    stage = triplet_scores_stage(config, annotation)
    assert triplet_scores_stage(config, annotation, batch_size=3).prefix == stage.prefix
    stricter = (landmarks_stage(LandmarksConfig(min_inter_ocular=13)), *annotation[1:])
    newer = (dataclasses.replace(annotation[0], code_version="other"), *annotation[1:])
    assert len({triplet_scores_stage(config, each).prefix for each in (annotation, stricter, newer)}) == 3


def test_batch_sizes_of_the_base_are_the_profiles_and_make_nothing_stale() -> None:
    sizes = {
        name: [getattr(profile(name).graph()[stage], "batch_size", 0) for stage in stages]
        for name in ("tiny", "flux-krea")
        for stages in [("latents", "pseudo_triplets", "swaps")]
    }
    assert sizes == {"tiny": [32, 32, 48], "flux-krea": [8, 4, 4]}
