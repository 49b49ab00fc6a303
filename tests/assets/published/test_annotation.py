"""The annotation of the paper's profile through the real runner, with the published networks in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assets.identity_pulid import EMBEDDER_NAME, PulidConfig, identity_pulid_stage
from assets.identity_sface import identity_sface_stage
from assets.runner import load_model
from assets.stage import RowStage, StageContext, StageGraph
from models.aesthetics.clip_aesthetics import SCORER_NAME
from models.faces.parsing import decode_codes, unpack_mask
from models.worlds.portraits import write_portraits
from pipeline.execution import run_stages
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import Status, state_column
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError

SIZE = 192


@pytest.fixture(scope="module")
def annotated(
    tmp_path_factory: pytest.TempPathFactory, published_graph: StageGraph, published_weights: Path
) -> Lake:
    """Four portraits, one that is moved to the corner of its picture, and one photograph of nobody."""
    folder = tmp_path_factory.mktemp("world")
    write_portraits(folder, identities=2, photos=2, size=SIZE, swap_pairs=1, held_out=2)
    portrait = np.asarray(Image.open(max((folder / "photos").rglob("*.jpg"))))
    corner = np.full((2 * SIZE, 2 * SIZE, 3), 90, np.uint8)
    corner[:SIZE, :SIZE] = portrait
    for name, picture in (("corner", corner), ("nobody", np.full((SIZE, SIZE, 3), 127, np.uint8))):
        (folder / "photos" / name).mkdir()
        Image.fromarray(picture).save(folder / "photos" / name / "0001.png")
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "photos", shard_size=8, consent=Consent.SYNTHETIC)
    published_graph.prepare(lake)
    report = run_stages(lake, published_graph, published_graph.names, device="cpu")
    assert report.computed_rows == dict.fromkeys(published_graph.names, 6)
    again = run_stages(lake, published_graph, published_graph.names, device="cpu")
    assert not any(again.computed_rows.values())
    return lake


def rows_of(lake: Lake, graph: StageGraph) -> dict[str, dict[str, Any]]:
    stages = graph.row_stages("faces")
    names = [column.name for stage in stages for column in stage.outputs]
    states = [state_column(stage.name) for stage in stages]
    table = lake.faces.snapshot().scan(["image_id", "image", *names, *states])
    return {row["image_id"]: row for row in table.to_pylist()}


def test_every_portrait_is_ok_in_every_stage_and_nobody_has_a_reason(
    annotated: Lake, published_graph: StageGraph
) -> None:
    rows = rows_of(annotated, published_graph)
    nobody = rows.pop("nobody/0001")
    reasons = {name: nobody[state_column(name)]["reason"] for name in published_graph.names}
    # masks and aesthetics look at the photograph alone
    assert reasons.pop("masks") is None
    assert reasons.pop("aesthetics") is None
    assert reasons.pop("landmarks") == "no_face"
    assert set(reasons.values()) == {"upstream"}
    for row in rows.values():
        for stage in published_graph.row_stages("faces"):
            state = row[state_column(stage.name)]
            assert state["status"] == Status.OK.value, (row["image_id"], stage.name, state["detail"])
            for column in stage.outputs:
                if column.quantum is not None:
                    assert np.isfinite(np.asarray(row[column.name], np.float64)).all(), column.name


def test_columns_have_their_shapes_and_say_who_made_them(
    annotated: Lake, published_graph: StageGraph
) -> None:
    rows = rows_of(annotated, published_graph)
    del rows["nobody/0001"]
    points = {image_id: row["identity_points"] for image_id, row in rows.items()}
    # the detector sees a face in the middle of every picture; the corner's face is another one
    assert points.pop("corner/0001") == "landmarks"
    assert set(points.values()) == {"scrfd"}
    tokens = np.stack([np.asarray(row["identity_embedding"], np.float32) for row in rows.values()])
    assert tokens.shape == (5, 32 * 24)
    assert tokens.std(axis=0).max() > 0.01  # not the same for everybody
    assert {len(row["arcface_512"]) for row in rows.values()} == {512}
    for row in rows.values():
        assert row["identity_embedder"] == EMBEDDER_NAME
        assert row["aesthetic_scorer"] == SCORER_NAME
        image = decode_upright(row["image"])
        codes = decode_codes(row["parsing"], image.shape[:2])
        assert unpack_mask(row["visible_face"], image.shape[:2]).mean() > 0
        assert codes.max() < 19
        # the reconstruction stands on the mesh's five points: mean of the eyes within a fraction of the face
        mesh = np.asarray(row["mesh_478"]).reshape(478, 3)
        landmarks = np.asarray(row["landmarks_68"]).reshape(68, 2)
        shift = landmarks[36:48].mean(axis=0) - mesh[[33, 133, 362, 263], :2].mean(axis=0)
        assert np.abs(shift).max() < np.ptp(mesh[:, 1]) / 4
        np.testing.assert_allclose(np.asarray(row["landmarks_68_3d"]).reshape(68, 3)[:, :2], landmarks)
        assert np.abs(row["pose"]).max() < 45


def test_a_row_alone_gives_what_the_batch_gave(annotated: Lake, published_graph: StageGraph) -> None:
    """Each stage anew on one photograph and the stored inputs, against what the run has stored."""
    # half precision, and a parser of random numbers that flips pixels where two classes nearly tie
    tolerances = {"identity_embedding": 5e-3}
    rows = rows_of(annotated, published_graph)
    for image_id in ("corner/0001", "w000001/0002_01"):
        stored = rows[image_id]
        row = {
            name: np.asarray(value, np.float32) if isinstance(value, list) else value
            for name, value in stored.items()
        } | {"image": decode_upright(stored["image"])}
        size = row["image"].shape[:2]
        for stage in published_graph.row_stages("faces"):
            (alone,) = load_model(annotated, published_graph, stage, "cpu", print)([row])
            assert not isinstance(alone, RowError)
            for column in stage.outputs:
                value, expected = alone[column.name], stored[column.name]
                if column.name == "parsing":
                    same = decode_codes(value, size) == decode_codes(expected, size)
                    assert same.mean() > 0.999
                elif column.name == "visible_face":
                    assert (unpack_mask(value, size) == unpack_mask(expected, size)).mean() > 0.999
                elif column.quantum is None:
                    assert value == expected, column.name
                else:
                    value = np.asarray(value, np.float64).ravel()
                    error = np.abs(value - np.asarray(expected, np.float64)).max()
                    scale = max(1.0, np.abs(value).max())
                    assert error / scale < tolerances.get(column.name, 1e-5), column.name


def test_a_masked_source_and_another_alignment_give_other_tokens(
    annotated: Lake, published_graph: StageGraph
) -> None:
    stage = published_graph["identity_embedding"]
    assert isinstance(stage, RowStage)
    config = stage.config
    assert isinstance(config, PulidConfig)
    stored = rows_of(annotated, published_graph)["w000000/0001_01"]
    row = {
        "image": decode_upright(stored["image"]),
        "landmarks_68": np.asarray(stored["landmarks_68"], np.float32),
        "parsing": stored["parsing"],
    }
    found = {}
    for changes in ({}, {"source": "unmasked"}, {"points": "landmarks"}):
        changed = identity_pulid_stage(config.model_copy(update=changes))
        context = StageContext(annotated, changed.resolve_weights(), "cpu", print)
        (outcome,) = changed.load(context)([row])
        assert not isinstance(outcome, RowError)
        found[str(changes)] = outcome["arcface_512"]
    first, *others = found.values()
    np.testing.assert_allclose(first, stored["arcface_512"], atol=1e-3)
    for other in others:
        assert np.linalg.norm(first - other) > 0.02 * np.linalg.norm(first)


def test_sface_embeds_the_faces_of_a_batch(annotated: Lake, published_graph: StageGraph) -> None:
    stage = identity_sface_stage()
    rows = [
        {
            "image": decode_upright(row["image"]),
            "landmarks_68": np.asarray(row["landmarks_68"], np.float32),
        }
        for row in rows_of(annotated, published_graph).values()
        if row["landmarks_68"] is not None
    ]
    told: list[str] = []
    model = stage.load(StageContext(annotated, stage.resolve_weights(), "cuda:0", told.append))
    assert "SFace runs on the CPU, not on cuda:0" in told[0]
    outcomes = model(rows)
    vectors = np.stack([np.asarray(o["identity_embedding"]) for o in outcomes if not isinstance(o, RowError)])
    assert vectors.shape == (5, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (alone,) = model(rows[2:3])
    assert not isinstance(alone, RowError)
    np.testing.assert_allclose(alone["identity_embedding"], vectors[2], atol=1e-5)
