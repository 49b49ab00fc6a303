"""What the denoiser's output means, and one reverse step by DDPM or DDIM, with or without guidance.

Guidance is a gradient g per pixel (uphill on what is wanted). DDPM moves its mean by Sigma g, with the
learned diagonal Sigma; DDIM takes sqrt(1 - alpha_bar) g off epsilon. Sources: improved DDPM (arXiv
2102.09672, equation 15), ADM (arXiv 2105.05233, algorithms 1 and 2), DDIM (arXiv 2010.02502, equations 12
and 16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.diffface.schedule import NoiseSchedule, StepIndex

EPSILON_CHANNELS = 3


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one call of the denoiser says of a step, all of shape (B, 3, H, W)."""

    x0_BCHW: Tensor
    """The clean image, not clipped."""
    epsilon: Tensor
    mean: Tensor
    """Of x_(t-1)."""
    variance: Tensor
    log_variance: Tensor


def predict(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_BCHW: Tensor,
    index: StepIndex,
    identity_BD: Tensor,
    schedule: NoiseSchedule,
) -> Prediction:
    """Call the denoiser at a step of a schedule, which tells it the original step.

    Args:
        denoiser: a `Denoiser`.
        x_BCHW: noised images.
        index: step of `schedule`.
        identity_BD: L2-normalised face embeddings.
        schedule: possibly respaced.

    Raises:
        ValueError: an index outside the schedule, or shapes the denoiser refuses.
    """
    timestep_B = schedule.timesteps(index, len(x_BCHW), x_BCHW.device)
    return interpret(denoiser(x_BCHW, timestep_B, identity_BD), x_BCHW, index, schedule)


def interpret(output: Tensor, x_BCHW: Tensor, index: StepIndex, schedule: NoiseSchedule) -> Prediction:
    """Read the denoiser's output.

    The last three channels place the logarithm of the variance between the posterior's (-1) and beta's (1);
    values outside are allowed. Without them the variance is beta.

    Args:
        output: (B, 6, H, W), or (B, 3, H, W) without a learned variance.
        x_BCHW: what the denoiser was given.
        index: the step it was given at.
        schedule: the schedule of that index.
    """
    schedule.check_index(index)
    epsilon = output[:, :EPSILON_CHANNELS]
    learned = output[:, EPSILON_CHANNELS:]
    place = (learned if learned.shape[1] else torch.ones_like(epsilon)).add(1) / 2
    lower = schedule.take(schedule.posterior_log_variance_clipped, index, x_BCHW)
    upper = schedule.take(schedule.betas.log(), index, x_BCHW)
    log_variance = place * upper + (1 - place) * lower
    x0_BCHW = schedule.x0_from_epsilon(x_BCHW, index, epsilon)
    mean = schedule.posterior_mean(x0_BCHW, x_BCHW, index)
    return Prediction(x0_BCHW, epsilon, mean, log_variance.exp(), log_variance)


def condition_mean(prediction: Prediction, gradient: Tensor) -> Prediction:
    """DDPM's guidance: the mean moved by Sigma g. The clean image stays what the network says."""
    return replace(prediction, mean=prediction.mean + prediction.variance * gradient)


def condition_score(
    schedule: NoiseSchedule, x_BCHW: Tensor, prediction: Prediction, index: StepIndex, gradient: Tensor
) -> Prediction:
    """DDIM's guidance: epsilon less sqrt(1 - alpha_bar) g, and the clean image and mean it leads to."""
    sigma = schedule.take((1 - schedule.alphas_cumprod).sqrt(), index, x_BCHW)
    epsilon = prediction.epsilon - sigma * gradient
    x0_BCHW = schedule.x0_from_epsilon(x_BCHW, index, epsilon)
    mean = schedule.posterior_mean(x0_BCHW, x_BCHW, index)
    return replace(prediction, x0_BCHW=x0_BCHW, epsilon=epsilon, mean=mean)


def ddpm_step(
    prediction: Prediction, noise: Tensor, index: StepIndex, gradient: Tensor | None = None
) -> Tensor:
    """Draw x_(t-1).

    Args:
        prediction: at this step.
        noise: standard normal, (B, 3, H, W); unused where the index is 0, whose mean is the answer.
        index: the step.
        gradient: guidance, as for `condition_mean`.

    Returns:
        (B, 3, H, W), the noised images of the step before.
    """
    if gradient is not None:
        prediction = condition_mean(prediction, gradient)
    return prediction.mean + _unless_first(index, noise) * (0.5 * prediction.log_variance).exp() * noise


def ddim_step(
    schedule: NoiseSchedule,
    x_BCHW: Tensor,
    prediction: Prediction,
    index: StepIndex,
    gradient: Tensor | None = None,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Step to x_(t-1) along the probability flow; nothing is random where eta is 0.

    Args:
        schedule: of the index.
        x_BCHW: noised images of this step.
        prediction: at this step.
        index: the step.
        gradient: guidance, as for `condition_score`.
        eta: 0 for DDIM, 1 for as much noise as DDPM with the posterior's variance.
        noise: standard normal, (B, 3, H, W); wanted where eta is not 0.

    Raises:
        ValueError: a negative eta, or one that is not 0 without noise.
    """
    if eta < 0 or (eta > 0 and noise is None):
        raise ValueError(f"eta {eta} must be 0 or more, and above 0 it needs noise")
    if gradient is not None:
        prediction = condition_score(schedule, x_BCHW, prediction, index, gradient)
    before = schedule.take(schedule.alphas_cumprod_prev, index, x_BCHW)
    sigma = eta * schedule.take(schedule.posterior_variance.sqrt(), index, x_BCHW)
    direction = (1 - before - sigma**2).clamp_min(0).sqrt() * prediction.epsilon
    x_before = before.sqrt() * prediction.x0_BCHW + direction
    return x_before if noise is None else x_before + sigma * noise


def _unless_first(index: StepIndex, like_BCHW: Tensor) -> Tensor | float:
    """1, or 0 for images at the first step."""
    if isinstance(index, Tensor):
        return (index != 0).to(like_BCHW).view(-1, 1, 1, 1)
    return float(index != 0)
