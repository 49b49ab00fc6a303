"""Costs counted on the meta device against torch's own counter, hand calculations and a measured step."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.swap import config as swap_config
from models.swap import cost
from models.swap.cost_counting import Count, count, count_module, on_meta, zeros
from models.swap.cost_networks import LossNetworks, annotation_network, build_codec, text_encoder_costs
from models.swap.cost_stages import (
    GPUS,
    below,
    measured_cpu_flops,
    micro_batch,
    swap_flops,
    training_memory,
    training_work,
)
from models.swap.sampling_config import SamplingConfig
from models.swap.text import TextEmbedding
from models.swap.training_recipe import TrainingRecipe

HAND_FORWARD, HAND_TRAIN, HAND_CHECKPOINTED = 38.0, 83.0, 121.0
"""TFLOP of FLUX at 512 px with 512 text tokens: 12.9 GFLOP per token in the linear maps, 2,560 tokens, 4 L^2
d per block, adapters; backward once more the linear maps and two and a half attentions."""


@pytest.fixture(scope="module")
def small_cost() -> cost.ModelCost:
    return cost.model_cost(swap_config.smoke(), LossNetworks("dlib"))


def test_a_deep_model_costs_what_its_blocks_say() -> None:
    """Stretched from three small depths, and counted whole: equal operations.

    Memory within a tenth: in a model this narrow, gradients weigh as much as activations, and where the two
    peak together moves with depth. At FLUX's widths activations decide.
    """
    smoke = swap_config.smoke()
    sizes = smoke.transformer.model_copy(update={"num_layers": 3, "num_single_layers": 3})
    intervals = smoke.identity.model_copy(update={"double_interval": 2, "single_interval": 2})
    deep = smoke.model_copy(update={"transformer": sizes, "identity": intervals})
    codec, losses = build_codec(deep), LossNetworks()

    def measure(config: swap_config.SwapModelConfig) -> tuple[Count, ...]:
        return (cost._train(config, codec, losses, True, False),)

    (stretched,), (whole,) = cost._stretched(deep, measure, deep=0), measure(deep)
    assert stretched.flops == whole.flops
    assert stretched.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.1)
    assert cost._busiest(deep) == cost._forward(deep, sizes.text_tokens).peak_bytes


def test_operations_are_those_of_torchs_own_counter() -> None:
    config = swap_config.smoke()
    model = cost.SwapTransformer(config)
    sizes, identity = config.transformer, config.identity
    inputs = {
        "latents_BLC": torch.randn(1, config.image_tokens, sizes.in_channels),
        "timestep_B": torch.full((1,), 0.5),
        "text": TextEmbedding(torch.randn(1, 2, sizes.joint_attention_dim), torch.randn(1, 16)),
        "condition_BLC": torch.randn(1, config.image_tokens, sizes.in_channels),
        "identity_BTD": torch.randn(1, identity.tokens, identity.token_dim),
    }
    model.add_lora(config.lora, seed=0)
    # the CPU's fused attention is not in torch's table of formulas, the plain one is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        model(**inputs)
    assert cost._forward(config, 2).flops == flops.get_total_flops()


def test_memory_is_what_lives_at_once() -> None:
    layers = on_meta(lambda: nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(5))))
    layers.requires_grad_(False)
    forward = count_module(layers, zeros(10, 100))
    assert forward == Count(flops=5 * 2 * 10 * 100 * 100, peak_bytes=2 * 10 * 100 * 4)
    layers.requires_grad_(True)
    inputs = zeros(10, 100)
    there = [*layers.parameters(), inputs]
    trained = count(lambda: torch.autograd.backward(layers(inputs).sum()), there)
    # five products forward, five for the weights, four for the inputs of layers 2 to 5
    assert trained.flops == 14 * 2 * 10 * 100 * 100
    kept, gradients = 4 * 10 * 100 * 4, 5 * 100 * 100 * 4
    assert gradients < trained.peak_bytes <= gradients + kept + 3 * 10 * 100 * 4


def test_flux_costs_what_a_hand_calculation_says() -> None:
    """Within 1.5 %: the hand calculation leaves out identity attention, embedders and modulation."""
    config = swap_config.flux_krea()
    hand = cost.by_hand(config)
    assert hand["forward"] == pytest.approx(HAND_FORWARD, rel=0.002)
    assert hand["train"] == pytest.approx(HAND_TRAIN, rel=0.005)
    assert hand["train_checkpointing"] == pytest.approx(HAND_CHECKPOINTED, rel=0.005)
    codec, losses = build_codec(config), LossNetworks()
    forward, step = cost._stretched(
        config,
        lambda small: (cost._forward(small, 512), cost._train(small, codec, losses, True, False)),
    )
    assert forward.tflop == pytest.approx(HAND_FORWARD, rel=0.015)
    assert step.tflop == pytest.approx(HAND_CHECKPOINTED, rel=0.015)
    # at the boundaries of 57 blocks, 2,560 tokens of 3,072 bf16 numbers, and one block's own activations
    boundaries = 57 * 2560 * 3072 * 2 / 1e9
    assert boundaries < step.gigabytes < boundaries + 2
    parameters = cost._parameters(config, codec)
    assert parameters["transformer"] == 11_901_408_320
    assert parameters["lora"] == 231_804_928
    assert parameters["codec"] == pytest.approx(83.8e6, rel=0.001)


def test_the_networks_beside_the_transformer() -> None:
    t5, clip = text_encoder_costs(512)
    assert t5.parameters == pytest.approx(4.76e9, rel=0.001)
    assert clip.parameters == pytest.approx(123.06e6, rel=0.001)
    # two operations per weight and token outside the vocabulary, and attention
    outside = t5.parameters - 32128 * 4096
    assert t5.forward.flops == pytest.approx(2 * outside * 512 + 24 * 4 * 512**2 * 4096, rel=0.01)
    tower = annotation_network("EVA02-CLIP-L-336")
    assert tower.forward.tflop == pytest.approx(0.382, rel=0.01)
    with pytest.raises(KeyError):
        annotation_network("a network nobody has")


def test_an_independent_condition_is_cheaper_when_kept(small_cost: cost.ModelCost) -> None:
    assert small_cost.cached.flops < small_cost.independent.flops <= small_cost.forward.flops
    whole = small_cost.cached.flops + small_cost.condition_once.flops
    assert whole == pytest.approx(small_cost.independent.flops, rel=0.02)
    kept = small_cost.sampling(28, cached=True)
    assert kept < 28 * small_cost.independent.flops
    assert small_cost.forward_short_text.flops < small_cost.forward.flops


def test_gates_steps_and_passes_make_a_stages_work(small_cost: cost.ModelCost) -> None:
    assert below(0.35) == pytest.approx(0.268, abs=0.001)  # Phi(logit 0.35)
    assert below(0.5) == pytest.approx(0.5)
    assert (below(0.0), below(1.0)) == (0.0, 1.0)
    recipe = TrainingRecipe(
        steps=100, batch_size=16, identity_loss_start=50, lpips_weight=0.0, identity_loss_threshold=0.5
    )
    plain = TrainingRecipe(steps=100, batch_size=16, identity_loss_weight=0.0, lpips_weight=0.0)
    step, decoded = small_cost.training.plain.flops, small_cost.training.decoded.flops
    assert training_work("teacher", small_cost, plain).flops == 1600 * step
    gated = training_work("teacher", small_cost, recipe)
    assert gated.flops == pytest.approx(1600 * (step + 0.25 * (decoded - step)))
    assert gated.hours(1e12, 4) == pytest.approx(gated.flops / 1e12 / 4 / 3600)
    flops, words = swap_flops(small_cost, SamplingConfig(steps=28, id_guidance_scale=2.0))
    assert flops == (28 + 56) * small_cost.forward.flops + small_cost.decode.flops
    assert words.startswith("84 passes")
    memory = training_memory(small_cost, plain, cards=4)
    assert micro_batch(plain, 4) == 4
    assert memory["gradients"] == memory["adapters"] == pytest.approx(small_cost.parameters["lora"] * 4e-9)
    assert memory["together"] == pytest.approx(sum(memory.values()) - memory["together"])
    assert all(gpu.source and math.isfinite(gpu.peak_tflops) for gpu in GPUS.values())


def test_a_measured_step_is_within_a_factor_of_six() -> None:
    """Small matrices lose most of their time around the products: estimates are too short, not too long."""
    config, rows = swap_config.tiny(), 32
    estimated = rows * cost._train(config, build_codec(config), LossNetworks(), False, False).flops
    torch.manual_seed(0)
    model = cost.SwapTransformer(config)
    model.add_lora(config.lora, seed=0)
    model.requires_grad_(False)
    for parameter in model.lora_parameters().values():
        parameter.requires_grad_(True)
    sizes, identity = config.transformer, config.identity
    inputs = {
        "latents_BLC": torch.randn(rows, config.image_tokens, sizes.in_channels),
        "timestep_B": torch.full((rows,), 0.5),
        "text": TextEmbedding(torch.randn(rows, 4, 32), torch.randn(rows, 32)),
        "condition_BLC": torch.randn(rows, config.image_tokens, sizes.in_channels),
        "identity_BTD": torch.randn(rows, identity.tokens, identity.token_dim),
    }
    seconds = []
    for _ in range(3):
        rate = measured_cpu_flops(sizes.inner_dim, rows * (4 + 2 * config.image_tokens))
        started = time.process_time()
        model(**inputs).square().mean().backward()
        seconds.append((time.process_time() - started) * rate / estimated)
    factor = sorted(seconds)[len(seconds) // 2]
    assert 1 / 2 < factor < 6
