"""`diffface_swaps` in a real lake: pictures, marks, what makes them stale, rows that cannot be swapped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.diffface_config import DIFFFACE_SWAPS, DiffFaceSwapsConfig
from assets.diffface_swaps import DiffFaceModel, diffface_swaps_stage
from assets.planner import Planner
from assets.stage import RowStage, StageContext, StageGraph
from assets.swapping import SOURCE, TARGET
from models.diffface.compat import CompatConfig
from models.faces.constants import CLASS_NAMES
from models.faces.frame import square_picture
from models.faces.parsing import decode_codes, pack_mask, unpack_mask
from pipeline.execution import run_stages
from pipeline.graph import build_graph
from pipeline.profiles import PROFILES, profile
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright
from resources.photos.marking import read_mark
from resources.photos.reasons import Reason, RowError

SIDE = 32
FACE = {*range(1, 7), *range(10, 14)}
"""Skin, brows, eyes, glasses, nose, mouth and lips."""

MEASURING = ("evaluation", "evaluation_protocol", "frontier")
"""Stages that read its swaps."""

COLUMNS = ["image", "consent", "landmarks_68", "parsing", "visible_face", "identity_embedding"]


@pytest.fixture(scope="module")
def rows(smoke_lake: Any) -> list[dict[str, Any]]:
    """Every pair as the stage reads it, with what is stored of it."""
    lake: Lake = smoke_lake.lake
    names = ["pair_id", SOURCE, TARGET, "swap", "identity_distance", "diffface_swaps_state.status"]
    found = lake.diffface_swaps.snapshot().scan(names).to_pylist()
    ids = sorted({row[side] for row in found for side in (SOURCE, TARGET)})
    photos = lake.faces.snapshot().find(ids, COLUMNS)
    for photo in photos.values():
        photo["image"] = decode_upright(photo["image"])
        photo |= {
            name: np.asarray(photo[name], np.float32) for name in ("landmarks_68", "identity_embedding")
        }
    for row in found:
        for side in (SOURCE, TARGET):
            row |= {f"{side}.{name}": value for name, value in photos[row[side]].items()}
    return sorted(found, key=lambda row: row["pair_id"])


@pytest.fixture(scope="module")
def model(smoke_lake: Any) -> DiffFaceModel:
    return opened(smoke_lake.lake, smoke_config())


def smoke_config() -> DiffFaceSwapsConfig:
    config = profile("smoke").parts().diffface
    assert config is not None
    return config


def opened(lake: Lake, config: DiffFaceSwapsConfig) -> DiffFaceModel:
    stage = diffface_swaps_stage(config)
    return DiffFaceModel(config, StageContext(lake, stage.resolve_weights(), "cpu", lambda text: None))


def with_settings(**changes: Any) -> StageGraph:
    """The profile with other settings of DiffFace."""
    config = smoke_config()
    changed = config.model_copy(update={"settings": config.settings.model_copy(update=changes)})
    return build_graph(replace(profile("smoke").parts(), diffface=changed))


def face_at(row: dict[str, Any], size: int) -> np.ndarray:
    """The target's visible face, bool (size, size), by the nearest pixel."""
    shape = row[f"{TARGET}.image"].shape[:2]
    codes = decode_codes(row[f"{TARGET}.parsing"], shape)
    visible = unpack_mask(row[f"{TARGET}.visible_face"], shape)
    whole = np.isin(codes, sorted(FACE)) & visible
    down, across = (np.arange(size) * side // size for side in shape)
    return whole[np.ix_(down, across)]


def test_every_pair_is_swapped_marked_and_the_targets_own_outside_the_face(
    smoke_lake: Any, rows: list[dict[str, Any]], model: DiffFaceModel
) -> None:
    pairs = smoke_lake.lake.swaps.snapshot().scan([SOURCE, TARGET]).to_pylist()
    assert {(row[SOURCE], row[TARGET]) for row in rows} == {(row[SOURCE], row[TARGET]) for row in pairs}
    assert len(rows) == 4
    assert CLASS_NAMES[6] == "glasses"
    for row in rows:
        assert row["diffface_swaps_state.status"] == "ok"
        assert 0 < row["identity_distance"] < 2
        picture, target = decode_upright(row["swap"]), square_picture(row[f"{TARGET}.image"], SIDE)
        face = face_at(row, SIDE)
        different = (picture != target).any(axis=2)
        assert not different[~face].any()
        assert different[face].mean() > 0.7
        mark = read_mark(row["swap"])
        assert mark is not None
        assert (mark.stage, mark.model_id) == (DIFFFACE_SWAPS, model.model_id)
        assert (mark.source_image_id, mark.target_image_id) == (row[SOURCE], row[TARGET])
        assert mark.consent == "source: synthetic; target: synthetic"


def test_a_pair_alone_is_what_it_is_in_a_batch(rows: list[dict[str, Any]], model: DiffFaceModel) -> None:
    (alone,) = model([rows[2]])
    assert not isinstance(alone, RowError)
    difference = decode_upright(alone["swap"]).astype(int) - decode_upright(rows[2]["swap"])
    assert np.abs(difference).max() <= 1
    assert alone["identity_distance"] == pytest.approx(rows[2]["identity_distance"], abs=0.01)


def test_it_is_a_method_of_the_evaluation_with_exact_metrics_and_both_judges(smoke_lake: Any) -> None:
    lake: Lake = smoke_lake.lake
    artifact = lake.current_artifact("evaluation")
    assert artifact is not None
    stored = lake.evaluations.snapshot().dataset.to_table(filter=f"evaluation = '{artifact.digest.hex()}'")
    found = {row["metric"]: row for row in stored.to_pylist() if row["method"] == "diffface"}
    assert {"leak", "rank_1_of_20", "face_psnr", "swap_progress", "id_distance_dlib"} < set(found)
    assert {"id_similarity_world", "id_leak_world", "id_leak_dlib"} < set(found)
    assert found["face_psnr"]["count"] == 4


def test_a_setting_makes_its_own_swaps_stale_and_what_measures_them(smoke_lake: Any) -> None:
    lake: Lake = smoke_lake.lake
    plan = Planner(lake, with_settings(batch_size=1, output_path="elsewhere", gpu_id=3))
    assert not any(plan.plan(stage).stale_rows for stage in plan.graph.stages)
    for changes in ({"masking_threshold": 0}, {"compat": CompatConfig(reblend_at_t=True)}):
        plan = Planner(lake, with_settings(**changes))
        lines = {stage.name: plan.plan(stage) for stage in plan.graph.stages}
        assert {name for name, line in lines.items() if line.stale_rows} == {DIFFFACE_SWAPS}
        assert lines[DIFFFACE_SWAPS].why == {"config": 4}
        assert lines[DIFFFACE_SWAPS].shards == ["diffface_swaps-00000"]
        assert {name for name, line in lines.items() if line.waiting_rows} == set(MEASURING)


def test_what_is_stale_is_computed_again_and_nothing_else(
    smoke_lake: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    lake = Lake.open(shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake"))
    graph = with_settings(masking_threshold=0)
    done = run_stages(lake, graph, ["swaps", DIFFFACE_SWAPS], device="cpu")
    assert done.computed_rows == {DIFFFACE_SWAPS: 4, "swaps": 0}
    again = lake.diffface_swaps.snapshot().scan(["pair_id", "swap"]).to_pylist()
    before = {row["pair_id"]: row["swap"] for row in rows}
    assert all((decode_upright(row["swap"]) != decode_upright(before[row["pair_id"]])).any() for row in again)
    planner = Planner(lake, graph)
    assert not any(planner.artifact(stage).waiting for stage in MEASURING)


def test_a_target_without_a_visible_face_is_set_aside_and_the_others_go_on(
    rows: list[dict[str, Any]], model: DiffFaceModel
) -> None:
    shape = rows[0][f"{TARGET}.image"].shape[:2]
    hidden = {**rows[0], f"{TARGET}.visible_face": pack_mask(np.zeros(shape, np.bool_))}
    outcomes = model([hidden, rows[1]])
    assert isinstance(outcomes[0], RowError)
    assert outcomes[0].reason is Reason.FACE_TOO_SMALL
    assert not isinstance(outcomes[1], RowError)


def test_guidance_that_overflows_is_a_reason_and_no_picture(
    smoke_lake: Any, rows: list[dict[str, Any]]
) -> None:
    config = smoke_config()
    settings = config.settings.model_copy(update={"loss_weight": 1e39})
    (outcome,) = opened(smoke_lake.lake, config.model_copy(update={"settings": settings}))([rows[0]])
    assert isinstance(outcome, RowError)
    assert outcome.reason is Reason.NON_FINITE
    assert "gradient_not_finite" in outcome.detail
    assert "lower loss_weight" in outcome.detail


def test_in_a_larger_frame_everything_but_the_face_is_the_photographs(
    smoke_lake: Any, rows: list[dict[str, Any]]
) -> None:
    size = 80
    (outcome,) = opened(smoke_lake.lake, smoke_config().model_copy(update={"size": size}))([rows[0]])
    assert not isinstance(outcome, RowError)
    picture = decode_upright(outcome["swap"])
    different = (picture != square_picture(rows[0][f"{TARGET}.image"], size)).any(axis=2)
    near = np.kron(face_at(rows[0], SIDE), np.ones((5, 5), bool))[::2, ::2]
    assert picture.shape == (size, size, 3)
    assert different[near].mean() > 0.5
    assert not different[~near].any()


def test_profiles_name_the_networks_that_they_may_use() -> None:
    stages = {
        name: found.graph()[DIFFFACE_SWAPS]
        for name, found in PROFILES.items()
        if DIFFFACE_SWAPS in found.graph().names
    }
    assert set(stages) == {"tiny", "smoke", "flux-krea"}  # the published weights forbid commercial use
    for name, stage in stages.items():
        assert isinstance(stage, RowStage)
        published = name == "flux-krea"
        roles = {"diffface_unet", "simswap_arcface", "face_parser", "gaze_estimator"}
        world = {"tiny_denoiser", "world_embedder", "world_parser", "world_gaze"}
        assert set(stage.weights) == (roles if published else world)
        wanted = "identity_reference" if published else "identity_embedding"
        assert (wanted, SOURCE) in {(item.stage, item.via) for item in stage.inputs}
        assert stage.recipe is None
    recipes = PROFILES["smoke"].graph(["inpainting", "supervised"])
    assert [stage for stage in recipes.names if stage.startswith(DIFFFACE_SWAPS)] == [DIFFFACE_SWAPS]
    for name in MEASURING:
        assert DIFFFACE_SWAPS in {item.stage for item in recipes[f"{name}@supervised"].inputs}
