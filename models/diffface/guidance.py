"""The gradient that the experts give a step: -dL/dx_t, through the denoiser.

DiffFace, section 3.3. The experts see sqrt(1 - alpha_bar) x0 + (1 - sqrt(1 - alpha_bar)) x_t, where x0 is
what the denoiser makes of x_t. Each row's gradient depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffface.constants import DIFFUSION_STEPS
from models.diffface.experts.expert import Expert, Prepared
from models.diffface.randomness import Moment
from models.diffface.schedule import NoiseSchedule
from models.diffface.settings import DiffFaceSettings
from models.diffface.steps import Prediction, predict


@dataclass(frozen=True)
class Guided:
    """A step's prediction and what the experts want changed.

    Attributes:
        prediction: without gradients.
        gradient_BCHW: -dL/dx_t, within the limit; 0 in rows that are not finite; None where no expert speaks.
        losses: unweighted loss (B,) of each expert that spoke, by its name.
        finite_B: False where a row's gradient was not finite.
    """

    prediction: Prediction
    gradient_BCHW: Tensor | None
    losses: Mapping[str, Tensor]
    finite_B: Tensor


def guided_prediction(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_BCHW: Tensor,
    identity_BD: Tensor,
    schedule: NoiseSchedule,
    experts: Sequence[tuple[Expert, Sequence[Prepared]]],
    settings: DiffFaceSettings,
    moment: Moment,
    guidance_scale: float = 1.0,
) -> Guided:
    """Predict a step and ask the experts; one pass forward and one back serve both.

    Args:
        denoiser: network of `models.diffface.denoiser`.
        x_BCHW: pictures at the step, float32.
        identity_BD: of the sources.
        schedule: respaced.
        experts: each with what it prepared for every row.
        settings: weights, views, limit.
        moment: step, and random numbers of every row.
        guidance_scale: factor on all weights.
    """
    index = moment.index
    at = guidance_index(schedule, index, settings)
    weights = {expert.name: expert.weight(settings, at) for expert, _ in experts}
    speaking = [(expert, prepared) for expert, prepared in experts if weights[expert.name]]
    finite = torch.ones(len(x_BCHW), dtype=torch.bool, device=x_BCHW.device)
    if not speaking:
        with torch.no_grad():
            return Guided(predict(denoiser, x_BCHW, index, identity_BD, schedule), None, {}, finite)
    with torch.enable_grad():
        x = x_BCHW.detach().requires_grad_()
        prediction = predict(denoiser, x, index, identity_BD, schedule)
        share = float((1 - schedule.alphas_cumprod[at]).sqrt())
        images = (share * prediction.x0_BCHW + (1 - share) * x + 1) / 2
        losses = {
            expert.name: expert.loss_B(images, prepared, settings, moment) for expert, prepared in speaking
        }
        total = sum((weights[name] * loss.sum() for name, loss in losses.items()), x.new_zeros(()))
        total = total * guidance_scale
        (slope,) = torch.autograd.grad(total, x)
    finite = torch.isfinite(slope).flatten(1).all(dim=1)
    gradient = torch.where(finite[:, None, None, None], -slope, 0.0)
    if not settings.compat.unclipped_gradient:
        gradient = limited(gradient, settings.gradient_limit)
    detached = Prediction(**{name: value.detach() for name, value in vars(prediction).items()})
    return Guided(detached, gradient, {name: loss.detach() for name, loss in losses.items()}, finite)


def limited(gradient_BCHW: Tensor, limit: float) -> Tensor:
    """Each row scaled down to a root mean square of at most `limit`; its direction stays."""
    sizes_B = gradient_BCHW.double().square().flatten(1).mean(dim=1).sqrt()
    factors_B = (limit / sizes_B.clamp(min=limit)).to(gradient_BCHW)
    return gradient_BCHW * factors_B[:, None, None, None]


def guidance_index(schedule: NoiseSchedule, index: int, settings: DiffFaceSettings) -> int:
    """The step's number as guidance sees it: the number itself, or t N / 1000 rounded down
    (`index_by_scaling`)."""
    if not settings.compat.index_by_scaling:
        return index
    steps = len(schedule)
    return min(steps - 1, int(schedule.timestep_map[index]) * steps // DIFFUSION_STEPS)
