"""The training term of the learned variance: one summand of the variational bound, in bits per number.

Source: improved DDPM (arXiv 2102.09672, section 3.1, L_vlb) and DDPM (arXiv 2006.11239, equations 5 and 13).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.diffface.schedule import NoiseSchedule
from models.diffface.steps import Prediction

PIXEL_BIN = 1 / 255
"""Half the distance of two of the 256 values of a pixel on the scale -1..1."""

SMALLEST_PROBABILITY = 1e-12
"""Of a pixel value; a worse guess is not punished further, so that no gradient is infinite."""


def variance_bound(
    prediction: Prediction, x0_BCHW: Tensor, x_BCHW: Tensor, index_B: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Bits that a step costs: KL(posterior || prediction), or at step 0 the pixels' negative log-likelihood.

    No gradient flows into the mean, so this trains the variance alone. The whole bound is the sum over all
    steps; weighing this term, at one random step, with N / 1000 is the published weight of 0.001 on it.

    Args:
        prediction: of `interpret` for `x_BCHW`.
        x0_BCHW: clean images, -1..1 in steps of 2 / 255.
        x_BCHW: `schedule.q_sample(x0_BCHW, index_B, noise)`.
        index_B: the step of each image.
        schedule: of these indices.

    Returns:
        (B,) bits per number (pixel and channel).
    """
    mean, log_variance = prediction.mean.detach(), prediction.log_variance
    true_mean = schedule.posterior_mean(x0_BCHW, x_BCHW, index_B)
    true_log_variance = schedule.take(schedule.posterior_log_variance_clipped, index_B, x_BCHW)
    divergence_B = gaussian_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)
    likelihood_B = discretised_log_likelihood(x0_BCHW, mean, log_variance).flatten(1).mean(1)
    return torch.where(index_B.to(x_BCHW.device) == 0, -likelihood_B, divergence_B) / math.log(2)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence of one normal distribution from another, elementwise, in nats."""
    difference = (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    ratio = log_variance - other_log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + difference)


def discretised_log_likelihood(x0_BCHW: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Logarithm (nats) of what a normal distribution gives each pixel's bin; the outer bins are unbounded."""
    inverse = torch.exp(-0.5 * log_variance)
    upper = torch.special.ndtr((x0_BCHW + PIXEL_BIN - mean) * inverse)
    lower = torch.special.ndtr((x0_BCHW - PIXEL_BIN - mean) * inverse)
    edge = 1 - PIXEL_BIN
    upper = torch.where(x0_BCHW > edge, torch.ones_like(upper), upper)
    lower = torch.where(x0_BCHW < -edge, torch.zeros_like(lower), lower)
    return (upper - lower).clamp_min(SMALLEST_PROBABILITY).log()
