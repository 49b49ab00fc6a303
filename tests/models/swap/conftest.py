"""Small real models for the tests of models.swap. Everything runs on one thread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from models.swap import config as swap_config
from models.swap.config import SwapModelConfig
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
def build_vae():
    """Return a builder of a random autoencoder like FLUX's, 4 channels, one halving."""

    def build() -> AutoencoderKL:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {
            "latent_channels": 4,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "scaling_factor": 0.36,
            "shift_factor": 0.1,
        }
        return AutoencoderKL(**sizes).eval()

    return build
