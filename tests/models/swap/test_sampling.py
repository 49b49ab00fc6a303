from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from models.swap.inversion import inversion_inputs, inversion_velocity, invert, partial_sigmas
from models.swap.sampling import (
    Inputs,
    euler,
    guided_velocity,
    midpoint,
    noise_rows,
    shift_mu,
    shifted_sigmas,
)
from models.swap.sampling_config import SamplingConfig


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


@torch.no_grad()
def test_inversion_round_trip_shrinks_with_steps_and_second_order_is_better(batch):
    model, inputs, _ = batch
    latents = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(9))
    nobody = inversion_inputs("noID_trgCond", inputs, None)
    velocity = inversion_velocity(model, nobody, SamplingConfig(id_guidance_scale=5.0))
    assert torch.equal(velocity(latents, 0.5), guided_velocity(model, nobody, SamplingConfig())(latents, 0.5))
    errors = {}
    for steps in (8, 32):
        sigmas = shifted_sigmas(steps, 16)
        for second in (False, True):
            noise = invert(velocity, latents, sigmas, second_order=second)
            back = (midpoint if second else euler)(velocity, noise, sigmas)
            errors[steps, second] = float((back - latents).abs().mean())
    assert errors[32, False] < 0.5 * errors[8, False]
    assert errors[32, True] < 0.2 * errors[32, False]


def test_partial_inversion_uses_one_set_of_levels_both_ways():
    sigmas = shifted_sigmas(28, 1024)
    part = partial_sigmas(sigmas, 10)
    assert len(part) == 11
    assert float(part[0]) == float(sigmas[18])
    assert float(part[-1]) == 0.0
    assert partial_sigmas(sigmas, None) is sigmas
    # With a constant velocity going up and down the same levels is exact, wherever the climb stopped.
    start = torch.zeros(1, 4, 2)
    field = lambda x, s: torch.ones_like(x) * 3.0  # noqa: E731
    top = invert(field, start, part)
    torch.testing.assert_close(top, torch.full_like(start, 3.0 * float(part[0])))
    torch.testing.assert_close(euler(field, top, part), start, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="inverse_steps 30 exceeds steps 28"):
        SamplingConfig(inverse_steps=30)
