from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer

from models.swap import config as swap_config
from models.swap.base import SwapBase
from models.swap.codec import PatchCodec
from models.swap.condition_cache import CacheUnavailable
from models.swap.config import ConditionBranchConfig
from models.swap.execution_config import ExecutionConfig
from models.swap.sampling import Inputs, guided_velocity, with_cached_conditions
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.transformer import SwapTransformer


@pytest.fixture
def build_independent(build_model):
    """Return a builder of a model whose condition sees itself alone, of a given depth."""

    def build(layers: int = 1, singles: int = 1) -> SwapTransformer:
        smoke = swap_config.smoke()
        sizes = {"num_layers": layers, "num_single_layers": singles}
        branch = ConditionBranchConfig(independent_condition=True, position_delta=(0.0, 4.0))
        update = {"transformer": smoke.transformer.model_copy(update=sizes), "condition": branch}
        return build_model(smoke.model_copy(update=update), lora=True)

    return build


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("layers", "singles", "batch"), [(1, 1, 1), (2, 3, 3), (4, 9, 2)])
@torch.no_grad()
def test_cached_equals_uncached_at_every_noise_level(build_independent, layers, singles, batch):
    model = build_independent(layers, singles)
    condition, text = _draw(batch, 9, 48), model.prompts(torch.arange(batch) % 2 == 0)
    cache = model.encode_condition(condition, text)
    assert (len(cache.double), len(cache.single), cache.batch) == (layers, singles, batch)
    assert cache.bytes == (layers + singles) * 2 * batch * 9 * 64 * 4
    identity = model.identity_encoder(_draw(batch, 128, seed=1))
    for sigma in (1.0, 0.4, 0.0):
        latents, timestep = _draw(batch, 16, 48, seed=2), torch.full((batch,), sigma)
        shared = {"identity_BTD": identity, "guidance": 2.0}
        uncached = model(latents, timestep, text, condition_BLC=condition, **shared)
        cached = model(latents, timestep, text, condition_cache=cache, **shared)
        assert uncached.std() > 0.1
        torch.testing.assert_close(cached, uncached, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cached_equals_uncached_under_all_guidances(build_independent):
    model = build_independent(2, 3)
    inputs = Inputs(
        text=model.prompts.prompt(2),
        condition=_draw(2, 16, 48),
        identity_BTD=model.identity_encoder(_draw(2, 128, seed=1)),
        black=_draw(1, 16, 48, seed=2).expand(2, -1, -1),
        unconditional_BTD=model.identity_encoder.unconditional(2),
    )
    latents = _draw(2, 16, 48, seed=3)
    for image_scale, id_scale in ((1.0, 1.0), (2.5, 1.0), (1.0, 3.0), (2.5, 3.0)):
        config = SamplingConfig(
            guidance_scale=2.0, image_guidance_scale=image_scale, id_guidance_scale=id_scale
        )
        uncached = guided_velocity(model, inputs, config)(latents, 0.6)
        remembered = with_cached_conditions(model, inputs, config)
        assert (remembered.black is None) == (image_scale == 1.0)
        cached = guided_velocity(model, remembered, config)(latents, 0.6)
        torch.testing.assert_close(cached, uncached, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inversion", [None, "noID_trgCond", "noID_noCond"])
def test_a_swapper_caches_by_itself_and_gives_the_same_swap(build_independent, inversion, caplog):
    model = build_independent(2, 3)
    base = SwapBase(model, PatchCodec(model.config.codec), model.config, "0" * 64)
    adapted = [0]
    for module in model.flux.modules():
        if isinstance(module, LoraLayer) and isinstance(module, torch.nn.Module):
            module.register_forward_hook(lambda *_: adapted.__setitem__(0, adapted[0] + 1))
    sampling = SamplingConfig(
        steps=3, inversion=inversion, image_guidance_scale=2.0, id_guidance_scale=1.5, second_order=True
    )
    swaps, counts = [], []
    for setting in ("auto", "off"):
        with caplog.at_level("INFO"):
            swapper = Swapper(base, execution=ExecutionConfig(condition_cache=setting))
        adapted[0] = 0
        target = None if inversion is None else _draw(2, 16, 48, seed=2)
        swaps.append(swapper.swap(_draw(2, 128), _draw(2, 16, 48, seed=1), target, sampling, [1, 2]))
        counts.append(adapted[0])
    torch.testing.assert_close(swaps[0], swaps[1], rtol=1e-5, atol=1e-5)
    # The condition and the black one, once: x_embedder, six maps of each block, three fewer in the last.
    assert counts[0] == 2 * (1 + 6 * (2 + 3) - 3)
    assert counts[1] > 4 * counts[0]
    assert "condition cache: on: the condition sees itself alone" in caplog.text
    assert "condition cache: off: it was switched off" in caplog.text


def test_a_condition_that_sees_the_image_is_refused(build_model):
    model = build_model(lora=True)
    with pytest.raises(CacheUnavailable, match=r"independent_condition=False.*changes with every step"):
        model.encode_condition(_draw(1, 16, 48), model.prompts.prompt(1))


@torch.no_grad()
def test_a_cache_that_does_not_fit_is_refused(build_independent):
    model = build_independent()
    condition, text = _draw(2, 16, 48), model.prompts.prompt(2)
    cache = model.encode_condition(condition, text)
    with pytest.raises(ValueError, match="not both"):
        model(condition, torch.zeros(2), text, condition_BLC=condition, condition_cache=cache)
    with pytest.raises(ValueError, match="holds 2 rows, the latents 3"):
        model(_draw(3, 16, 48), torch.zeros(3), model.prompts.prompt(3), condition_cache=cache)
