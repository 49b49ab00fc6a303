"""One reverse step against diffusers' schedulers; guidance; whole walks through the schedule."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, DDPMSchedulerOutput
from torch import Tensor
from torch.nn import functional

from models.diffface.config import DenoiserConfig
from models.diffface.denoiser import Denoiser
from models.diffface.respacing import respaced
from models.diffface.schedule import NoiseSchedule, linear_schedule
from models.diffface.steps import Prediction, condition_score, ddim_step, ddpm_step, interpret, predict

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def denoiser(small_config: DenoiserConfig) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(small_config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.requires_grad_(requires_grad=False)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_double(scheduler: DDPMScheduler | DDIMScheduler) -> None:
    """Give diffusers' scheduler the same linear betas in double precision."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)


@pytest.mark.parametrize("respacing", ["1000", "100", "10,15,20"])
def test_ddpm_step_is_that_of_diffusers(respacing: str) -> None:
    schedule = respaced(linear_schedule(), respacing)
    theirs = DDPMScheduler(beta_schedule="linear", variance_type="learned_range", clip_sample=False)
    in_double(theirs)
    theirs.set_timesteps(timesteps=schedule.timestep_map.tolist()[::-1])
    x, output = drawn(1, 2, 3, 4, 4), drawn(2, 2, 6, 4, 4)
    for index in (len(schedule) - 1, len(schedule) // 2, 1, 0):
        timestep = int(schedule.timestep_map[index])
        wanted = theirs.step(output, timestep, x, generator=torch.Generator().manual_seed(index))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        prediction = interpret(output, x, index, schedule)
        found = ddpm_step(prediction, noise, index)
        assert isinstance(wanted, DDPMSchedulerOutput)
        torch.testing.assert_close(found, wanted.prev_sample, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(prediction.x0_BCHW, wanted.pred_original_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_step_is_that_of_diffusers(eta: float) -> None:
    schedule = respaced(linear_schedule(), "ddim25")
    theirs = DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=True)
    in_double(theirs)
    theirs.set_timesteps(25)
    assert theirs.timesteps.tolist() == schedule.timestep_map.tolist()[::-1]
    x, output, noise = drawn(3, 2, 3, 4, 4), drawn(4, 2, 6, 4, 4), drawn(5, 2, 3, 4, 4)
    for index in (24, 12, 1, 0):
        timestep = int(schedule.timestep_map[index])
        wanted = theirs.step(output[:, :3], timestep, x, eta=eta, variance_noise=noise)
        assert isinstance(wanted, DDIMSchedulerOutput)
        found = ddim_step(schedule, x, interpret(output, x, index, schedule), index, eta=eta, noise=noise)
        torch.testing.assert_close(found, wanted.prev_sample, rtol=1e-9, atol=1e-9)


def test_the_learned_variance_lies_between_its_bounds_by_logarithm() -> None:
    schedule = respaced(linear_schedule(), "100")
    x, output = drawn(6, 3, 3, 2, 2), drawn(7, 3, 6, 2, 2)
    output[0, 3:], output[1, 3:], output[2, 3:] = -1, 1, 0
    prediction = interpret(output, x, 40, schedule)
    low, high = float(schedule.posterior_variance[40]), float(schedule.betas[40])
    for row, wanted in enumerate((low, high, math.sqrt(low * high))):
        torch.testing.assert_close(prediction.variance[row], torch.full((3, 2, 2), wanted).double())
    fixed = interpret(output[:, :3], x, 40, schedule)
    torch.testing.assert_close(fixed.variance, torch.full_like(x, high))
    assert torch.equal(fixed.mean, prediction.mean)


def test_a_quadratic_expert_moves_the_mean_by_sigma_g(denoiser: Denoiser) -> None:
    """Loss k/2 |x - c|^2 asks for g = k (c - x); autograd finds it, and only the mean moves, by Sigma g."""
    schedule = respaced(linear_schedule(), "100")
    x = drawn(8, 2, 3, 8, 8).float().requires_grad_()
    wanted_image, strength, index = drawn(9, 2, 3, 8, 8).float(), 3.0, 60
    identity = functional.normalize(drawn(10, 2, 5).float())
    loss = strength / 2 * (x - wanted_image).square().sum()
    gradient = -torch.autograd.grad(loss, x)[0]
    torch.testing.assert_close(gradient, strength * (wanted_image - x.detach()))
    prediction = predict(denoiser, x.detach(), index, identity, schedule)
    noise = drawn(11, 2, 3, 8, 8).float()
    moved = ddpm_step(prediction, noise, index, gradient) - ddpm_step(prediction, noise, index)
    torch.testing.assert_close(moved, prediction.variance * gradient, rtol=1e-4, atol=1e-6)
    assert prediction.variance.unique().numel() > 300, "a variance per pixel"
    # at the last step the mean is the answer, and guidance still moves it
    last = predict(denoiser, x.detach(), 0, identity, schedule)
    assert torch.equal(ddpm_step(last, noise, 0), last.mean)
    torch.testing.assert_close(ddpm_step(last, noise, 0, gradient), last.mean + last.variance * gradient)


def test_ddim_guidance_is_of_the_score() -> None:
    """The score is -epsilon / sqrt(1 - alpha_bar); guidance adds g to it; the clean image is Tweedie's."""
    schedule, index = respaced(linear_schedule(), "ddim25"), 13
    x, output, gradient = drawn(12, 2, 3, 4, 4), drawn(13, 2, 6, 4, 4), drawn(14, 2, 3, 4, 4)
    prediction = interpret(output, x, index, schedule)
    bar = float(schedule.alphas_cumprod[index])
    score = -prediction.epsilon / math.sqrt(1 - bar) + gradient
    guided = condition_score(schedule, x, prediction, index, gradient)
    torch.testing.assert_close(guided.epsilon, -math.sqrt(1 - bar) * score)
    torch.testing.assert_close(guided.x0_BCHW, (x + (1 - bar) * score) / math.sqrt(bar))
    again = interpret(torch.cat([guided.epsilon, output[:, 3:]], dim=1), x, index, schedule)
    torch.testing.assert_close(guided.mean, again.mean)
    torch.testing.assert_close(
        ddim_step(schedule, x, prediction, index, gradient), ddim_step(schedule, x, again, index)
    )


def oracle(x0: Tensor, schedule: NoiseSchedule, told: list[float]) -> object:
    """A denoiser that knows the clean image, and understands original steps only."""

    def call(x: Tensor, timestep: Tensor, identity: Tensor) -> Tensor:
        told.append(float(timestep[0]))
        bar = schedule.alphas_cumprod[timestep.long()].view(-1, 1, 1, 1)
        epsilon = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
        return torch.cat([epsilon, torch.zeros_like(epsilon)], dim=1)

    return call


@pytest.mark.parametrize("respacing", ["100", "ddim25", "4,3,2"])
def test_who_knows_the_clean_image_arrives_at_it(respacing: str) -> None:
    """Every step is told the original index, or the oracle would be wrong; DDIM and DDPM both end at x_0."""
    whole = linear_schedule()
    schedule = respaced(whole, respacing)
    x0, told = drawn(15, 2, 3, 4, 4).clamp(-1, 1), []
    for ddim in (True, False):
        told.clear()
        x = schedule.q_sample(x0, len(schedule) - 1, drawn(16, 2, 3, 4, 4))
        for index in reversed(range(len(schedule))):
            prediction: Prediction = predict(oracle(x0, whole, told), x, index, drawn(17, 2, 5), schedule)  # pyright: ignore[reportArgumentType] - a function in its place
            x = (
                ddim_step(schedule, x, prediction, index)
                if ddim
                else ddpm_step(prediction, drawn(18 + index, 2, 3, 4, 4), index)
            )
        torch.testing.assert_close(x, x0, rtol=1e-7, atol=1e-7)
        assert told == schedule.timestep_map.flip(0).tolist()


def walk(denoiser: Denoiser, x: Tensor, identity: Tensor) -> Tensor:
    schedule = respaced(linear_schedule(), "ddim5")
    for index in reversed(range(len(schedule))):
        x = ddim_step(schedule, x, predict(denoiser, x, index, identity, schedule), index)
    return x


def test_ddim_is_deterministic_and_a_batch_is_its_images(denoiser: Denoiser) -> None:
    x, identity = drawn(30, 3, 3, 8, 8).float(), functional.normalize(drawn(31, 3, 5).float())
    first = walk(denoiser, x, identity)
    torch.manual_seed(99)
    assert torch.equal(walk(denoiser, x, identity), first)
    singles = [walk(denoiser, x[i : i + 1], identity[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(singles), first, rtol=1e-4, atol=1e-4 * float(first.abs().amax()))


def test_each_image_may_be_at_a_step_of_its_own() -> None:
    schedule = respaced(linear_schedule(), "100")
    x, output, noise = drawn(40, 3, 3, 2, 2), drawn(41, 3, 6, 2, 2), drawn(42, 3, 3, 2, 2)
    gradient, steps = drawn(43, 3, 3, 2, 2), torch.tensor([0, 40, 99])
    prediction = interpret(output, x, steps, schedule)
    ddpm = ddpm_step(prediction, noise, steps, gradient)
    ddim = ddim_step(schedule, x, prediction, steps, gradient, eta=0.5, noise=noise)
    for row, index in enumerate(steps.tolist()):
        one = slice(row, row + 1)
        alone = interpret(output[one], x[one], index, schedule)
        assert torch.equal(ddpm_step(alone, noise[one], index, gradient[one]), ddpm[one])
        found = ddim_step(schedule, x[one], alone, index, gradient[one], eta=0.5, noise=noise[one])
        assert torch.equal(found, ddim[one])


def test_what_cannot_be_stepped_is_refused() -> None:
    schedule = respaced(linear_schedule(), "100")
    x, output = drawn(50, 1, 3, 2, 2), drawn(51, 1, 6, 2, 2)
    prediction = interpret(output, x, 5, schedule)
    with pytest.raises(ValueError, match=r"must be whole and in 0\.\.99"):
        interpret(output, x, 100, schedule)
    for eta, noise in ((0.5, None), (-1.0, x)):
        with pytest.raises(ValueError, match=f"eta {eta} must be 0 or more, and above 0 it needs noise"):
            ddim_step(schedule, x, prediction, 5, eta=eta, noise=noise)
