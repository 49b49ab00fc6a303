"""FLUX at its full size, on the meta device: shapes and counts without memory."""

from __future__ import annotations

import pytest
import torch

from models.swap import config as swap_config
from models.swap.transformer import SwapTransformer


@pytest.fixture(scope="module")
def flux_krea():
    config = swap_config.flux_krea()
    with torch.device("meta"):
        model = SwapTransformer(config)
        model.add_lora(config.lora, seed=0)
    return model.eval()


def test_parameters_and_adapters_have_the_published_counts(flux_krea):
    adapters = flux_krea.lora_parameters()
    base = sum(p.numel() for name, p in flux_krea.flux.named_parameters() if name not in adapters)
    assert base == 11_901_408_320
    assert len(adapters) == 686
    assert sum(p.numel() for p in adapters.values()) == 231_804_928
    assert {min(p.shape) for p in adapters.values()} == {64}
    assert {p.dtype for p in adapters.values()} == {torch.float32}


@torch.no_grad()
def test_a_pass_at_512_px_calls_identity_attention_at_the_published_places(flux_krea):
    config = flux_krea.config
    called: list[str] = []
    places = {
        "double": flux_krea.flux.transformer_blocks,
        "single": flux_krea.flux.single_transformer_blocks,
    }
    hooks = [
        # The norm is the one part of a block that every pass runs first, once for each branch.
        block.norm1_context.linear.register_forward_hook(lambda *_, at=f"double {i}": called.append(at))
        for i, block in enumerate(places["double"])
    ]
    hooks += [
        block.proj_out.base_layer.register_forward_hook(lambda *_, at=f"single {i}": called.append(at))
        for i, block in enumerate(places["single"])
    ]
    hooks += [
        layer.register_forward_hook(lambda *_, at=f"identity {i}": called.append(at))
        for i, layer in enumerate(flux_krea.identity_attention)
    ]
    draw = lambda *shape: torch.zeros(*shape, device="meta")  # noqa: E731
    prompt = flux_krea.prompts.prompt(1)
    identity = flux_krea.identity_encoder(draw(1, config.identity.embedding_dim))
    assert prompt.tokens_BTD.shape == (1, 512, 4096)
    assert identity.shape == (1, 32, 2048)
    velocity = flux_krea(
        draw(1, 1024, 64), draw(1), prompt, condition_BLC=draw(1, 1024, 64), identity_BTD=identity
    )
    for hook in hooks:
        hook.remove()
    assert velocity.shape == (1, 1024, 64)
    assert velocity.device.type == "meta"
    after = [called[place - 1] for place, name in enumerate(called) if name.startswith("identity")]
    assert after == [f"double {i}" for i in range(0, 19, 2)] + [f"single {i}" for i in range(0, 38, 4)]
    assert [name for name in called if name.startswith("identity")] == [f"identity {i}" for i in range(20)]
