from __future__ import annotations

import importlib.resources
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.world_embedder import (
    WorldEmbedder,
    WorldEmbedderError,
    WorldNetwork,
    chips_to_tensor,
    load_world_network,
    save_world_network,
    world_chip,
)
from models.identity.world_embedder_data import ChipPoolConfig, build_chips
from models.identity.world_embedder_sizes import WORLD_FIVE_POINTS
from models.identity.world_embedder_training import EmbedderRecipe, draw_batch, evaluate_embedder, main
from models.worlds import render, sample_attributes, sample_identities

SHIPPED = (
    Path(str(importlib.resources.files("models.identity"))) / "checkpoints" / "world_embedder.safetensors"
)
HELD_OUT = 77_000_001  # people and photographs of no training


def test_a_chip_brings_the_five_points_to_their_places():
    template = np.array(WORLD_FIVE_POINTS, np.float32)
    turn = np.array([[0.9, -0.3], [0.3, 0.9]], np.float32) * 3
    points = (template - 32) @ turn.T + 120
    image = np.zeros((256, 256, 3), np.uint8)
    for x, y in points:
        image[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5] = 255
    chip = world_chip(image, points)
    assert chip.shape == (64, 64, 3)
    assert all(chip[int(y), int(x), 0] > 200 for x, y in template)
    assert chip.mean() < 40


def test_save_and_load_keep_the_network(tmp_path):
    torch.manual_seed(0)
    network = WorldNetwork().eval()
    save_world_network(tmp_path / "a.safetensors", network)
    save_world_network(tmp_path / "b.safetensors", load_world_network(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    chips = chips_to_tensor(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    again = load_world_network(tmp_path / "a.safetensors")
    assert torch.allclose(network(chips), again(chips), atol=2e-3)
    assert torch.allclose(again(chips).norm(dim=1), torch.ones(3))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WorldEmbedderError, match="format"):
        load_world_network(tmp_path / "other.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(WorldEmbedderError, match="not the world's embedder"):
        load_world_network(tmp_path / "junk.safetensors")
    with pytest.raises(FileNotFoundError):
        load_world_network(tmp_path / "absent.safetensors")


def test_batches_hold_two_photographs_of_each_person_and_are_functions_of_the_step(tmp_path):
    pool = build_chips(ChipPoolConfig(people=6, photos=3), tmp_path, lambda line: None)
    recipe = EmbedderRecipe(people_per_batch=4)
    chips, identities = draw_batch(pool, recipe, 3)
    assert chips.shape == (8, 3, 64, 64)
    assert torch.equal(identities[:4], identities[4:])
    assert len(torch.unique(identities, dim=0)) == 4
    assert not torch.allclose(chips[:4], chips[4:], atol=0.2)
    assert torch.equal(draw_batch(pool, recipe, 3)[0], chips)
    assert not torch.equal(draw_batch(pool, recipe, 4)[1], identities)


def test_the_shipped_embedder_tells_people_apart_that_it_never_saw():
    """Rank-1 of 60 people across pose, light and make-up; its own gate is rank-1 of 200."""
    gate = json.loads(SHIPPED.with_name("world_embedder_gate.json").read_text())
    assert gate["passed"]
    assert gate["people"] == 200
    people = sample_identities(HELD_OUT, 60)
    embedder = WorldEmbedder(SHIPPED)
    embeddings = []
    for seed in (1, 2):
        faces = render(people, sample_attributes(HELD_OUT + seed, 60), size=128)
        points = [arcface_points_from_68(landmarks) for landmarks in faces.landmarks_68_N682]
        embeddings.append(embedder.embed(list(faces.images_NHWC), points))
    cosines = embeddings[0] @ embeddings[1].T
    assert (cosines.argmax(axis=1) == np.arange(60)).mean() >= 0.85


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    def arguments(work: Path) -> list[str]:
        places = ["--work", str(work), "--output", str(work / "e.safetensors"), "--held-out-people", "10"]
        return [
            *places,
            "--people",
            "70",
            "--photos",
            "2",
            "--cycles",
            "4",
            "4",
            "--checkpoint-interval",
            "2",
        ]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    module = "models.identity.world_embedder_training"
    process = subprocess.Popen([sys.executable, "-m", module, *arguments(broken)], stderr=subprocess.DEVNULL)
    while not (broken / "embedder_state.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "e.safetensors").exists()
    assert torch.load(broken / "embedder_state.pt", weights_only=True)["step"] < 8
    for work in (whole, broken):
        with pytest.raises(SystemExit, match="does not pass its gate"):  # eight steps pass none
            main(arguments(work))
    assert (whole / "e.safetensors").read_bytes() == (broken / "e.safetensors").read_bytes()
    report = json.loads((broken / "e_gate.json").read_text())
    assert report["passed"] is False


def test_evaluation_of_a_blind_network_is_chance(tmp_path):
    pool = build_chips(ChipPoolConfig(people=40, photos=2), tmp_path, lambda line: None)
    torch.manual_seed(0)
    network = WorldNetwork().eval()
    torch.nn.init.zeros_(network.head.weight)
    assert evaluate_embedder(network, pool)["rank_1"] <= 0.05
