from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from models.swap.base import SwapBase
from models.swap.codec import PatchCodec
from models.swap.inversion import inversion_inputs, inversion_velocity, invert, partial_sigmas
from models.swap.sampling import (
    Inputs,
    euler,
    guided_velocity,
    integrate,
    midpoint,
    noise_rows,
    shift_mu,
    shifted_sigmas,
)
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper


def _diffusers_sigmas(steps: int, tokens: int) -> torch.Tensor:
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=shift_mu(tokens))
    return torch.as_tensor(scheduler.sigmas)


@pytest.mark.parametrize(("steps", "tokens"), [(28, 1024), (12, 16), (4, 4096)])
def test_shifted_sigmas_equal_the_schedulers(steps, tokens):
    torch.testing.assert_close(
        shifted_sigmas(steps, tokens), _diffusers_sigmas(steps, tokens), rtol=0, atol=2e-6
    )


def test_shifted_sigmas_at_512_px_are_the_papers():
    sigmas = shifted_sigmas(28, 1024)
    assert [round(float(s), 4) for s in sigmas[:3]] == [1.0, 0.9807, 0.9606]
    assert [round(float(s), 4) for s in sigmas[-4:]] == [0.1839, 0.1262, 0.065, 0.0]
    torch.testing.assert_close(
        shifted_sigmas(4, 1024, shift=False), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    )


def test_noise_rows_do_not_depend_on_the_batch():
    together = noise_rows([7, 8, 9], 16, 4)
    assert torch.equal(together[1], noise_rows([8], 16, 4)[0])
    assert not torch.equal(together[0], together[1])
    assert abs(float(noise_rows(range(200), 16, 4).std()) - 1) < 0.02


@pytest.mark.parametrize(("integrate", "order"), [(euler, 1), (midpoint, 2)])
def test_integrators_have_their_order(integrate, order):
    # dx/ds = x cos(s) has the solution x(s) = x(0) exp(sin s).
    field = lambda x, s: x * math.cos(s)  # noqa: E731
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64):
        end = integrate(field, start, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        errors.append(abs(float(end) - math.exp(math.sin(1.0))))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.fixture
def batch(build_model):
    model = build_model(lora=True)
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs = Inputs(
        text=model.prompts.prompt(2),
        condition=draw(2, 16, 48),
        identity_BTD=model.identity_encoder(draw(2, 128)).detach(),
        black=draw(1, 16, 48).expand(2, -1, -1),
        unconditional_BTD=model.identity_encoder.unconditional(2).detach(),
    )
    return model, inputs, draw(2, 16, 48)


@torch.no_grad()
def test_guidances_alone_and_together(batch):
    model, inputs, latents = batch

    def raw(condition, identity, guidance=1.0):
        sigma = torch.full((2,), 0.6)
        return model(
            latents, sigma, inputs.text, condition_BLC=condition, identity_BTD=identity, guidance=guidance
        )

    def guided(**scales):
        return guided_velocity(model, inputs, SamplingConfig(**scales))(latents, 0.6)

    full = raw(inputs.condition, inputs.identity_BTD)
    black = raw(inputs.black, inputs.identity_BTD)
    nobody = raw(inputs.condition, inputs.unconditional_BTD)
    assert torch.equal(guided(), full)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    close(guided(image_guidance_scale=2.5), black + 2.5 * (full - black))
    close(guided(id_guidance_scale=3.0), nobody + 3.0 * (full - nobody))
    close(guided(id_guidance_scale=0.0), nobody)
    both = guided(image_guidance_scale=2.5, id_guidance_scale=3.0)
    close(both, full + 1.5 * (full - black) + 2.0 * (full - nobody))
    distilled = [
        raw(c, i, 4.0)
        for c, i in (
            (inputs.condition, inputs.identity_BTD),
            (inputs.black, inputs.identity_BTD),
            (inputs.condition, inputs.unconditional_BTD),
        )
    ]
    everything = guided(guidance_scale=4.0, image_guidance_scale=2.5, id_guidance_scale=3.0)
    close(
        everything, distilled[0] + 1.5 * (distilled[0] - distilled[1]) + 2.0 * (distilled[0] - distilled[2])
    )
    assert not torch.allclose(everything, both, atol=1e-3)


def test_guidance_without_its_contrast_is_an_error(batch):
    model, inputs, _ = batch
    bare = Inputs(text=inputs.text, condition=None, identity_BTD=None)
    with pytest.raises(ValueError, match="image guidance needs"):
        guided_velocity(model, bare, SamplingConfig(image_guidance_scale=2.0))
    with pytest.raises(ValueError, match="identity guidance needs"):
        guided_velocity(model, bare, SamplingConfig(id_guidance_scale=2.0))


def test_the_default_is_the_papers_28_euler_steps_without_guidance():
    config = SamplingConfig()
    assert (config.steps, config.second_order, config.second_order_sampling) == (28, False, False)
    assert (config.guidance_scale, config.image_guidance_scale, config.id_guidance_scale) == (1.0, 1.0, 1.0)
    assert config.inversion == "noID_trgCond"
    assert config.shift
    assert config.passes == 56


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"inversion": None},
        {"inverse_steps": 2, "second_order": True},
        {"second_order_sampling": True, "image_guidance_scale": 2.0},
        {"image_guidance_scale": 2.0, "id_guidance_scale": 0.5, "guidance_scale": 3.0},
    ],
    ids=str,
)
def test_passes_counts_what_a_swap_runs(build_model, settings):
    model = build_model()
    base = SwapBase(model, PatchCodec(model.config.codec), model.config, "0" * 64)
    counted = []
    model.register_forward_hook(lambda *_: counted.append(1))
    sampling = SamplingConfig(steps=3, **settings)
    Swapper(base).swap(torch.ones(1, 128), torch.ones(1, 16, 48), torch.ones(1, 16, 48), sampling, [0])
    assert len(counted) == sampling.passes


def test_the_four_inversion_conditionings(batch):
    _, inputs, _ = batch
    own = torch.ones(2, 2, 32)
    seen = {
        word: inversion_inputs(word, inputs, own)
        for word in ("noID_trgCond", "trgID_trgCond", "trgID_noCond", "noID_noCond")
    }
    assert seen["noID_trgCond"].identity_BTD is inputs.unconditional_BTD
    assert seen["trgID_trgCond"].identity_BTD is own
    assert seen["noID_noCond"].condition is None
    assert seen["trgID_noCond"].condition is None
    assert seen["trgID_trgCond"].condition is inputs.condition
    with pytest.raises(ValueError, match="needs the target's identity"):
        inversion_inputs("trgID_noCond", inputs, None)


def _slope(steps: list[int], errors: list[float]) -> float:
    """Order of convergence: minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def _smooth_field(x: torch.Tensor, sigma: float) -> torch.Tensor:
    turn = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(6, 6).sin()
    return torch.tanh(x @ turn / 2) + math.cos(2 * sigma) * x.flip(-1) / 2 - math.exp(-sigma)


def test_inversion_is_of_first_order_by_euler_and_of_second_by_midpoint_steps():
    start = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    steps = [8, 16, 32, 64, 128]
    exact = invert(_smooth_field, start, shifted_sigmas(2048, 16).double(), second_order=True)
    off = {(second, again): [] for second in (False, True) for again in (False, True, None)}
    for count in steps:
        sigmas = shifted_sigmas(count, 16).double()
        for second in (False, True):
            noise = invert(_smooth_field, start, sigmas, second_order=second)
            off[second, None].append(float((noise - exact).abs().max()))
            for again in (False, True):
                back = integrate(_smooth_field, noise, sigmas, second_order=again)
                off[second, again].append(float((back - start).abs().max()))
    # The noise that is found.
    assert _slope(steps, off[False, None]) == pytest.approx(1, abs=0.1)
    assert _slope(steps, off[True, None]) == pytest.approx(2, abs=0.1)
    # The way there and back: as good as the worse way, and better where both are midpoint steps.
    assert _slope(steps, off[False, False]) == pytest.approx(1, abs=0.1)
    assert _slope(steps, off[True, False]) == pytest.approx(1, abs=0.1)
    assert _slope(steps, off[True, True]) == pytest.approx(3, abs=0.15)


def test_the_originals_second_order_is_of_first_order():
    def original(x, sigmas):
        for here, there in pairwise(sigmas.flip(0).tolist()):
            step = there - here
            first = _smooth_field(x, here)
            # Its second evaluation moves the time and not the place.
            change = (_smooth_field(x, here + step / 2) - first) / (step / 2)
            x = x + step * first + step**2 / 2 * change
        return x

    start = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    exact = invert(_smooth_field, start, shifted_sigmas(2048, 16).double(), second_order=True)
    steps = [8, 16, 32, 64, 128]
    errors = [float((original(start, shifted_sigmas(n, 16).double()) - exact).abs().max()) for n in steps]
    assert _slope(steps, errors) == pytest.approx(1, abs=0.15)


@torch.no_grad()
def test_round_trips_through_the_transformer_have_the_same_orders(build_model):
    model = build_model(lora=True).double()
    # A trained network changes slowly with the noise level; random weights on fast sinusoids do not.
    waves = model.flux.time_text_embed.timestep_embedder.linear_1.weight
    waves[:, :90] = 0
    waves[:, 128:218] = 0
    draw = lambda seed: torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(seed)).double()  # noqa: E731
    inputs = Inputs(model.prompts.prompt(1), draw(0), model.identity_encoder.unconditional(1))
    velocity = inversion_velocity(model, inputs, SamplingConfig(id_guidance_scale=5.0))
    assert torch.equal(
        velocity(draw(1), 0.5), guided_velocity(model, inputs, SamplingConfig())(draw(1), 0.5)
    ), "inversion is not guided"
    steps = [8, 16]
    for second, order in ((False, 1), (True, 3)):
        errors = []
        for count in steps:
            sigmas = shifted_sigmas(count, 4).double()
            noise = invert(velocity, draw(1), sigmas, second_order=second)
            back = integrate(velocity, noise, sigmas, second_order=second)
            errors.append(float((back - draw(1)).abs().mean()))
        assert _slope(steps, errors) == pytest.approx(order, abs=0.15)


def test_partial_inversion_uses_one_set_of_levels_both_ways():
    sigmas = shifted_sigmas(28, 1024)
    part = partial_sigmas(sigmas, 10)
    assert len(part) == 11
    assert float(part[0]) == float(sigmas[18])
    assert float(part[-1]) == 0.0
    assert partial_sigmas(sigmas, None) is sigmas
    assert torch.equal(partial_sigmas(sigmas, 28), sigmas)
    # A velocity that depends on the level alone: up and down the same levels by trapezes is exact, so what
    # remains is a telescope that any other step sizes miss.
    start = torch.zeros(1, 4, 2, dtype=torch.float64)
    field = lambda x, s: torch.full_like(x, 3.0 + s)  # noqa: E731
    top = invert(field, start, part, second_order=True)
    reached = float(part[0])
    torch.testing.assert_close(top, torch.full_like(start, 3.0 * reached + reached**2 / 2))
    torch.testing.assert_close(midpoint(field, top, part), start, atol=1e-9, rtol=0)
    # The original slices the last levels for the model, and takes step sizes from the head of the list.
    original = top.clone()
    for level, size in zip(part[:-1].tolist(), (sigmas[1:] - sigmas[:-1])[:10].tolist(), strict=True):
        original = original + size * field(original, level)
    assert float((original - start).abs().max()) > 0.3
    with pytest.raises(ValueError, match="inverse_steps 30 exceeds steps 28"):
        SamplingConfig(inverse_steps=30)


@pytest.mark.parametrize("second_order", [False, True])
def test_a_partial_inversion_of_all_steps_is_the_full_one(build_model, second_order):
    model = build_model(lora=True)
    base = SwapBase(model, PatchCodec(model.config.codec), model.config, "0" * 64)
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(2))  # noqa: E731
    target = draw(2, 16, 48)
    results = {}
    for inverse_steps in (None, 4, 1):
        sampling = SamplingConfig(steps=4, inverse_steps=inverse_steps, second_order=second_order)
        results[inverse_steps] = Swapper(base).swap(draw(2, 128), 0.5 * target, target, sampling, [1, 2])
    assert torch.equal(results[None], results[4])
    nearer, further = ((results[n] - target).abs().mean() for n in (1, 4))
    assert nearer < further
