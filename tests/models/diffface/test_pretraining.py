"""Pretraining of the tiny denoiser: what it learns from, stopping and going on, and its held-out figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from models.diffface.checkpoint import load_denoiser
from models.diffface.config import DenoiserConfig
from models.diffface.denoiser import Denoiser
from models.diffface.pretraining import fresh_denoiser, packaged_embedder, pretrain, write_log
from models.diffface.pretraining_evaluation import evaluate_denoiser, rank_1, sample_faces
from models.diffface.training_recipe import DenoiserRecipe
from models.diffface.world_faces import WorldFaceData, load_world_faces
from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.world_embedder import WorldEmbedder, world_chip
from models.swap.identity_crop import face_encoder
from models.swap.pretraining_data import WorldConfig, world_people
from models.worlds import Attributes, render

WORLD = WorldConfig(seed=5, people=24, photos=2, scenes=10)
SMALL = DenoiserConfig(
    name="test",
    image_size=32,
    model_channels=8,
    channel_mult=(1, 1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=8,
    identity_dim=128,
    norm_groups=4,
)
RECIPE = DenoiserRecipe(steps=50, batch_size=4, learning_rate=1e-3, ema_decay=0.9, checkpoint_interval=2)


@pytest.fixture(scope="module")
def embedder() -> WorldEmbedder:
    torch.set_num_threads(1)
    return WorldEmbedder(packaged_embedder())


@pytest.fixture(scope="module")
def faces(embedder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    lines: list[str] = []
    made = [
        load_world_faces(WORLD, embedder, folder, "image", lines.append, embedder_digest="a")
        for _ in range(2)
    ]
    assert sum("embedded" in line for line in lines) == 2  # the second time, both are loaded
    assert np.array_equal(made[0].points_N52, made[1].points_N52)
    return made[1]


def test_points_and_identities_are_those_of_the_pictures(faces, embedder):
    people = world_people(WORLD)
    rows = np.array([0, 7, 29])
    again = render(people[faces.person_N[rows]], Attributes(faces.attributes_NK[rows]), 64)
    points = [arcface_points_from_68(landmarks / 2) for landmarks in again.landmarks_68_N682]
    np.testing.assert_allclose(faces.points_N52[rows], points, atol=1e-4)
    assert faces.image_identity_ND is not None
    chips = [world_chip(faces.images_NHW3[row], faces.points_N52[row]) for row in rows]
    np.testing.assert_allclose(
        faces.image_identity_ND[rows], embedder.embed_chips(np.stack(chips)), atol=1e-5
    )


def test_batches_take_the_identity_that_is_asked_for(faces):
    data = {source: WorldFaceData(faces, source) for source in ("image", "other_photo")}
    choices = data["image"].draw(np.random.default_rng(1), 20)
    assert np.array_equal(choices, data["other_photo"].draw(np.random.default_rng(1), 20))
    own, other = (data[source].read(choices) for source in ("image", "other_photo"))
    for row, (picture, photo) in enumerate(choices):
        assert np.array_equal(own.images_BHW3[row], faces.images_NHW3[picture])
        assert np.array_equal(own.identity_BD[row], faces.image_identity_ND[picture])
        wanted = faces.photo_identity_PKD[faces.person_N[picture], photo]
        assert np.array_equal(other.identity_BD[row], wanted)
        assert own.points_B52 is not None
        assert np.array_equal(own.points_B52[row], faces.points_N52[picture])


def test_a_run_that_stops_and_goes_on_is_the_unbroken_one(faces, tmp_path):
    encode = face_encoder("world", packaged_embedder())
    for folder, stops in (("whole", (4,)), ("parts", (2, 4))):
        for stop in stops:
            pretrain(
                SMALL,
                RECIPE,
                faces,
                tmp_path / folder,
                tmp_path / folder / "out.safetensors",
                encode_face=encode,
                provenance={"world": "test"},
                stop_after=stop,
            )
    files = [(tmp_path / folder / "out.safetensors").read_bytes() for folder in ("whole", "parts")]
    assert files[0] == files[1]
    write_log(tmp_path / "parts" / "out.safetensors", tmp_path / "parts" / "run")
    (line,) = (tmp_path / "parts" / "out_log.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["step"] == 4
    assert 0.5 < entry["noise"] < 2.0
    assert load_denoiser(tmp_path / "whole" / "out.safetensors").config == SMALL


def test_held_out_figures_of_a_denoiser_that_knows_nothing(faces, embedder):
    torch.manual_seed(0)
    report = evaluate_denoiser(Denoiser(SMALL).eval(), faces, embedder, pictures=6, samples=4)
    for losses in report["epsilon_loss"].values():
        # it says that there is no noise, whoever it is
        assert losses["right"] == pytest.approx(1.0, abs=0.05)
        assert losses["wrong_over_right"] == 0.0
    assert not report["passed"]


def test_samples_do_not_depend_on_their_batch(faces):
    denoiser = fresh_denoiser(SMALL, 0).eval()
    identity = torch.from_numpy(faces.photo_identity_PKD[:2, 0])
    both = sample_faces(denoiser, identity, steps="4")
    assert both.shape == (2, 32, 32, 3)
    assert np.array_equal(both[:1], sample_faces(denoiser, identity[:1], steps="4"))
    assert not np.array_equal(both[0], both[1])


def test_rank_1_finds_real_pictures_and_misses_strangers(faces, embedder):
    gallery = faces.photo_identity_PKD[:, 1]
    right = rank_1(faces.images_NHW3, faces.points_N52, faces.person_N, gallery, embedder)
    wrong = rank_1(faces.images_NHW3, faces.points_N52, (faces.person_N + 1) % 24, gallery, embedder)
    assert right > 0.5
    assert wrong < 0.3
