"""Small real models for the tests of models.swap. Everything runs on one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.swap import config as swap_config
from models.swap.codec import PatchCodec
from models.swap.config import SwapModelConfig
from models.swap.data import TeacherData
from models.swap.training import train
from models.swap.training_recipe import TrainingRecipe
from models.swap.transformer import SwapTransformer


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _randomise(model: SwapTransformer, seed: int) -> None:
    """Give every parameter a value that matters: nothing is left at its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(
            noise * (0.3 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.1)
        )
        if parameter.ndim == 1:
            parameter.data.add_(1.0)
    model.prompts.fill_with_noise(generator)


@pytest.fixture
def build_model():
    """Return a builder of a randomised model from a config, with LoRA adapters if asked for."""

    def build(config: SwapModelConfig | None = None, *, lora: bool = False, seed: int = 0) -> SwapTransformer:
        config = config or swap_config.smoke()
        torch.manual_seed(seed)
        model = SwapTransformer(config)
        if lora:
            model.add_lora(config.lora, seed=seed)
        _randomise(model, seed)
        return model.eval()

    return build


@pytest.fixture
def patch_codec() -> PatchCodec:
    """The smoke config's codec, fitted to noise."""
    codec = PatchCodec(swap_config.smoke().codec)
    codec.fit(np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    return codec


@pytest.fixture
def teacher_data() -> TeacherData:
    """Three photos of each of six people; a condition is its target, paler."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(6), 3)
    faces = rng.standard_normal((6, 128))
    targets = rng.standard_normal((18, 16, 48)) * 0.3 + rng.standard_normal((6, 16, 48))[people]
    conditions = (targets * 0.7).astype(np.float16)
    return TeacherData(targets, conditions, faces[people] + 0.05 * rng.standard_normal((18, 128)), people)


@pytest.fixture
def run_training(patch_codec: PatchCodec, teacher_data: TeacherData):
    """Return `train` with data, codec and black latents filled in."""

    def run(model: SwapTransformer, output_dir: Path, recipe: TrainingRecipe, **options: Any):
        given = {"codec": patch_codec, "black_latents_LC": torch.zeros(16, 48), **options}
        return train(model, given.pop("data", teacher_data), recipe, output_dir, **given)

    return run
