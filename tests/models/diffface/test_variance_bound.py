"""The variance's training term against torch's and scipy's distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from models.diffface.respacing import respaced
from models.diffface.schedule import linear_schedule
from models.diffface.steps import interpret
from models.diffface.variance_bound import discretised_log_likelihood, variance_bound

torch.set_num_threads(1)

SCHEDULE = respaced(linear_schedule(), "100")


def material(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(index), 3, 4, 4)
    x0 = torch.randint(256, shape, generator=generator).double() / 127.5 - 1
    x0[:, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    output = torch.cat([noise + 0.1, torch.randn(shape, generator=generator, dtype=torch.float64)], dim=1)
    return x0, SCHEDULE.q_sample(x0, index, noise), output


def test_later_steps_cost_the_divergence_of_two_normal_distributions() -> None:
    index = torch.tensor([1, 40, 99])
    x0, x, output = material(index)
    prediction = interpret(output, x, index, SCHEDULE)
    true = Normal(
        SCHEDULE.posterior_mean(x0, x, index), SCHEDULE.posterior_variance[index].sqrt().view(-1, 1, 1, 1)
    )
    nats = kl_divergence(true, Normal(prediction.mean, prediction.variance.sqrt())).mean(dim=(1, 2, 3))
    torch.testing.assert_close(variance_bound(prediction, x0, x, index, SCHEDULE), nats / math.log(2))


def test_the_first_step_costs_the_pixels_bits() -> None:
    index = torch.tensor([0, 0])
    x0, x, output = material(index)
    prediction = interpret(output, x, index, SCHEDULE)
    found = variance_bound(prediction, x0, x, index, SCHEDULE)
    scale = prediction.variance.sqrt().numpy()
    edges_above = np.where(x0.numpy() > 0.999, np.inf, x0.numpy() + 1 / 255)
    edges_below = np.where(x0.numpy() < -0.999, -np.inf, x0.numpy() - 1 / 255)
    mean = prediction.mean.numpy()
    probability = norm.cdf(edges_above, mean, scale) - norm.cdf(edges_below, mean, scale)
    wanted = -np.log2(np.maximum(probability, 1e-12)).mean(axis=(1, 2, 3))
    torch.testing.assert_close(found, torch.from_numpy(wanted))


def test_the_bins_of_all_pixel_values_add_up_to_one() -> None:
    values = torch.arange(256).double() / 127.5 - 1
    for mean, deviation in ((0.3, 0.02), (-0.99, 0.1), (1.4, 0.5)):
        likelihood = discretised_log_likelihood(
            values, torch.tensor(mean).double(), torch.tensor(2 * math.log(deviation)).double()
        )
        assert likelihood.exp().sum().item() == pytest.approx(1, abs=1e-8)


def test_it_trains_the_variance_alone() -> None:
    index = torch.tensor([0, 40])
    x0, x, output = material(index)
    output.requires_grad_()
    bits = variance_bound(interpret(output, x, index, SCHEDULE), x0, x, index, SCHEDULE)
    (gradient,) = torch.autograd.grad(bits.sum(), output)
    assert not gradient[:, :3].any()
    assert gradient.isfinite().all()
    assert (gradient[:, 3:].flatten(1).abs().amax(1) > 0).all()


def test_the_best_variance_is_the_one_the_errors_have() -> None:
    """With a perfect mean nothing beats the posterior's own variance, which is -1 in the network's terms."""
    index = torch.tensor([40])
    x0, x, output = material(index)
    output[:, :3] = (x - SCHEDULE.alphas_cumprod[40].sqrt() * x0) / (1 - SCHEDULE.alphas_cumprod[40]).sqrt()
    costs = []
    for place in (-1.5, -1.0, 0.0, 1.0):
        output[:, 3:] = place
        costs.append(variance_bound(interpret(output, x, index, SCHEDULE), x0, x, index, SCHEDULE).item())
    assert costs[1] == pytest.approx(0, abs=1e-12)
    assert min(costs[0], costs[2]) > 1e-6
    assert costs[3] > costs[2]
