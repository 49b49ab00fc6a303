"""The denoiser that comes with the package: what it knows of people it never saw, and whether it swaps."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.diffface.blending import face_mask
from models.diffface.checkpoint import load_denoiser
from models.diffface.compat import CompatConfig
from models.diffface.config import tiny
from models.diffface.experts.weights import ExpertWeights
from models.diffface.networks import DiffFaceNetworks, open_networks
from models.diffface.pretraining import STOP_AFTER, packaged_embedder
from models.diffface.settings import DiffFaceSettings
from models.worlds.benchmark import benchmark_pairs
from models.worlds.world import render

SHIPPED = Path(str(importlib.resources.files("models.diffface"))) / "checkpoints"
PAIRS = 12


@pytest.fixture(scope="module")
def networks() -> DiffFaceNetworks:
    torch.set_num_threads(1)
    files = {
        name: SHIPPED / f"{name}.safetensors" for name in ("tiny_denoiser", "world_parser", "world_gaze")
    }
    return open_networks("world", {**files, "world_embedder": packaged_embedder()}, "cpu")


def test_the_file_is_the_one_that_its_gate_and_log_tell_of() -> None:
    gate = json.loads((SHIPPED / "tiny_denoiser_gate.json").read_text())
    log = [json.loads(line) for line in (SHIPPED / "tiny_denoiser_log.jsonl").read_text().splitlines()]
    assert gate["passed"]
    assert log[-1]["step"] == STOP_AFTER
    assert log[-1]["noise"] < log[0]["noise"] / 3
    assert load_denoiser(SHIPPED / "tiny_denoiser.safetensors").config == tiny()
    assert (SHIPPED / "tiny_denoiser.safetensors").stat().st_size <= 8_000_000


def test_guided_swaps_of_strangers_come_nearer_to_the_source(networks: DiffFaceNetworks) -> None:
    pairs = benchmark_pairs(PAIRS)
    large = [
        render(people, photographs, 256)
        for people, photographs in (
            (pairs.sources, pairs.source_attributes),
            (pairs.targets, pairs.target_attributes),
        )
    ]
    embedded = [networks.embed(list(faces.images_NHWC), list(faces.landmarks_68_N682)) for faces in large]
    sources = render(pairs.sources, pairs.source_attributes, networks.side)
    targets = render(pairs.targets, pairs.target_attributes, networks.side)
    masks = face_mask(targets.parsing_NHW, CompatConfig())
    settings = DiffFaceSettings(
        device="cpu",
        batch_size=PAIRS,
        iterations_num=1,
        timestep_respacing="12",
        skip_timesteps=3,
        masking_threshold=4,
        aug_num=1,
        expert_weights=ExpertWeights(gaze_window=(1, 6)),
    )
    swapped = networks.swapper.swap(
        sources.images_NHWC,
        embedded[0],
        targets.images_NHWC,
        masks,
        settings,
        target_landmarks=list(targets.landmarks_68_N682),
        source_landmarks=list(sources.landmarks_68_N682),
    ).images_NHWC
    assert np.array_equal(swapped[~masks], targets.images_NHWC[~masks])
    found = networks.embed(list(swapped), list(targets.landmarks_68_N682))
    nearer = (found * embedded[0]).sum(axis=1) - (found * embedded[1]).sum(axis=1)
    before = (embedded[0] * embedded[1]).sum(axis=1) - 1
    assert nearer.mean() > 0.1 > before.mean()
    assert (nearer > before).all()
