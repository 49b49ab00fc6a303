from __future__ import annotations

from typing import Any

import pytest
import torch

from models.swap import config as swap_config
from models.swap.config import ConditionBranchConfig, SwapModelConfig
from models.swap.transformer import SwapTransformer, adapters_without_gradient

BATCH, TOKENS = 3, 16


def _with_condition(config: SwapModelConfig, **settings: Any) -> SwapModelConfig:
    return config.model_copy(update={"condition": ConditionBranchConfig(**settings)})


def _inputs(model: SwapTransformer, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    channels = model.config.transformer.in_channels
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    embedding = draw(BATCH, model.config.identity.embedding_dim)
    return {
        "latents_BLC": draw(BATCH, TOKENS, channels),
        "timestep_B": torch.rand(BATCH, generator=generator),
        "text": model.prompts(torch.tensor([True, False, True])),
        "condition_BLC": draw(BATCH, TOKENS, channels),
        "identity_BTD": model.identity_encoder(embedding).detach(),
    }


@torch.no_grad()
def test_each_part_changes_the_output_and_lora_needs_the_condition(build_model):
    model = build_model(lora=True)
    inputs = _inputs(model)
    full = model(**inputs)
    for name in ("condition_BLC", "identity_BTD"):
        assert not torch.allclose(full, model(**{**inputs, name: None}), atol=1e-3)
    alone = {**inputs, "condition_BLC": None}
    before = model(**alone)
    for parameter in model.lora_parameters().values():
        parameter.data.mul_(3.0)
    assert torch.equal(before, model(**alone))
    assert not torch.allclose(full, model(**inputs), atol=1e-4)


@pytest.mark.parametrize("independent", [False, True])
@torch.no_grad()
def test_a_batch_equals_its_rows_alone(build_model, independent):
    config = _with_condition(swap_config.tiny(), independent_condition=independent)
    model = build_model(config, lora=True)
    inputs = _inputs(model)
    together = model(**inputs)
    for row in range(BATCH):
        one = {k: v[row : row + 1] for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        one["text"] = model.prompts(torch.tensor([row != 1]))
        torch.testing.assert_close(model(**one)[0], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize(("layers", "singles"), [(1, 3), (2, 1)])
def test_every_adapter_gets_a_gradient_except_the_documented_ones(build_model, layers, singles, independent):
    config = _with_condition(swap_config.tiny(), independent_condition=independent)
    sizes = {"num_layers": layers, "num_single_layers": singles}
    config = config.model_copy(update={"transformer": config.transformer.model_copy(update=sizes)})
    model = build_model(config, lora=True)
    assert len(model.lora_parameters()) == 2 * (1 + 6 * layers + 6 * singles)
    model(**_inputs(model)).square().mean().backward()
    still = {
        name.split(".lora_")[0]
        for name, parameter in model.lora_parameters().items()
        if parameter.grad is None or not bool(parameter.grad.abs().max() > 0)
    }
    last = f"single_transformer_blocks.{singles - 1}"
    assert still == {f"{last}.attn.to_q", f"{last}.proj_mlp", f"{last}.proj_out"}
    assert adapters_without_gradient(config) == still


def test_adapters_without_gradient_are_among_the_targets():
    config = swap_config.smoke()
    lora = config.lora.model_copy(update={"targets": r"x_embedder|single_transformer_blocks\.\d+\.proj_mlp"})
    named = adapters_without_gradient(config.model_copy(update={"lora": lora}))
    assert named == {"single_transformer_blocks.0.proj_mlp"}


@pytest.mark.parametrize("independent", [False, True])
def test_checkpointing_changes_neither_loss_nor_gradients(build_model, independent):
    results = []
    for checkpointing in (False, True):
        config = _with_condition(swap_config.tiny(), independent_condition=independent)
        model = build_model(config, lora=True)
        model.gradient_checkpointing = checkpointing
        loss = model(**_inputs(model)).square().mean()
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss, gradients))
    (loss, gradients), (checkpointed_loss, checkpointed) = results
    assert torch.equal(loss, checkpointed_loss)
    assert gradients.keys() == checkpointed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, checkpointed[name])


@torch.no_grad()
def test_identity_encoder_null_and_errors(build_model):
    model = build_model()
    encoder = model.identity_encoder
    torch.testing.assert_close(encoder.unconditional(2), encoder(torch.zeros(2, 128)))
    generator = torch.Generator().manual_seed(3)
    people = torch.arange(200).repeat_interleave(5)
    pose = torch.randn(1000, 128, generator=generator) @ torch.randn(128, 128, generator=generator) * 0.05
    cloud = torch.randn(200, 128, generator=generator)[people] * 0.1 + pose + 0.7
    encoder.fit_whitening(cloud, people, floor=0.0)
    whitened = (cloud - encoder.mean) @ encoder.whitening
    assert whitened.mean().abs() < 1e-2
    centres = torch.stack([whitened[people == person].mean(dim=0) for person in range(200)])
    scatter = whitened - centres[people]
    covariance = scatter.T @ scatter / (1000 - 200)
    torch.testing.assert_close(covariance, torch.eye(128), atol=2e-2, rtol=0)
    assert torch.isfinite(encoder(torch.zeros(1, 128))).all()
    with pytest.raises(ValueError, match="two photos or more"):
        encoder.fit_whitening(cloud, torch.arange(1000))
    with pytest.raises(ValueError, match="512 values, this model takes 128"):
        encoder(torch.zeros(1, 512))


@torch.no_grad()
def test_ready_tokens_pass_through_and_zero_means_the_stored_unconditional(build_model):
    config = swap_config.smoke()
    identity = config.identity.model_copy(update={"encoder": "tokens", "embedding_dim": 64})
    model = build_model(config.model_copy(update={"identity": identity}))
    encoder = model.identity_encoder
    encoder.unconditional_tokens.fill_(0.5)
    tokens = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0))
    tokens[1] = 0
    out = encoder(tokens)
    assert torch.equal(out[0], tokens[0])
    assert torch.equal(out[1], torch.full((2, 32), 0.5))
    assert torch.equal(encoder.unconditional(1)[0], torch.full((2, 32), 0.5))


def test_a_token_count_that_is_no_square_needs_ids(build_model):
    model = build_model()
    with pytest.raises(ValueError, match="15 tokens make no square grid"):
        model(torch.zeros(1, 15, 48), torch.zeros(1), model.prompts.prompt(1))
