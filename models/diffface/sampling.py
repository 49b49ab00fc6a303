"""The loop over the steps of one batch: predict, guide, step, blend (DiffFace, section 3; ADM, algorithms 1,
2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffface.blending import blend, blend_level, blends
from models.diffface.denoiser import Denoiser
from models.diffface.experts.expert import Expert, Prepared
from models.diffface.guidance import Guided, guided_prediction
from models.diffface.randomness import Draw, Moment, Purpose
from models.diffface.schedule import NoiseSchedule
from models.diffface.settings import DiffFaceSettings
from models.diffface.steps import ddim_step, ddpm_step
from models.diffface.swap_results import StopReason

Watch = Callable[[int, int, Tensor], None]
"""Told the number of steps taken before, the step's own number, and its predicted clean pictures (-1..1)."""


@dataclass(frozen=True)
class SamplingInputs:
    """A batch on the denoiser's device.

    Attributes:
        targets_BCHW: in -1..1, float32.
        masks_B1HW: 1 on the faces, 0 elsewhere.
        identity_BD: of the sources, of length 1.
        draws: random numbers of each row.
    """

    targets_BCHW: Tensor
    masks_B1HW: Tensor
    identity_BD: Tensor
    draws: Sequence[Draw]


@dataclass(frozen=True)
class Sampled:
    """Pictures (B, 3, H, W) in about -1..1, and why rows stopped; those hold the target."""

    x_BCHW: Tensor
    reasons: tuple[StopReason | None, ...]


def sample(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    experts: Sequence[tuple[Expert, Sequence[Prepared]]],
    inputs: SamplingInputs,
    settings: DiffFaceSettings,
    watch: Watch | None = None,
    guidance_scale: float = 1.0,
) -> Sampled:
    """Sample a batch from the noised targets.

    Args:
        denoiser: frozen, evaluating.
        schedule: respaced as the settings say.
        experts: each with what it prepared for every row.
        inputs: of the batch.
        settings: of the swap.
        watch: called at every step.
        guidance_scale: factor on all experts' weights.
    """
    loop = _Loop(denoiser, schedule, experts, inputs, settings, guidance_scale)
    with torch.inference_mode(mode=False), torch.no_grad():
        return loop.run(watch)


class _Loop:
    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        experts: Sequence[tuple[Expert, Sequence[Prepared]]],
        inputs: SamplingInputs,
        settings: DiffFaceSettings,
        guidance_scale: float,
    ) -> None:
        self._denoiser = denoiser
        self._schedule = schedule
        self._experts = experts
        self._inputs = inputs
        self._settings = settings
        self._guidance_scale = guidance_scale
        self._reasons: list[StopReason | None] = [None] * len(inputs.draws)

    def run(self, watch: Watch | None) -> Sampled:
        first = self._settings.sampled_steps - 1
        x = self._noised_targets(first, Moment(first, self._inputs.draws), Purpose.START)
        predicted = x
        for taken, index in enumerate(range(first, -1, -1)):
            moment = Moment(index, self._inputs.draws)
            guided = guided_prediction(
                self._denoiser,
                x,
                self._inputs.identity_BD,
                self._schedule,
                self._experts,
                self._settings,
                moment,
                self._guidance_scale,
            )
            x = self._step(x, guided, moment)
            predicted = guided.prediction.x0_BCHW
            if self._settings.ddim and index == 0:
                predicted = x  # DDIM's last step is the prediction after guidance
            self._stop(~guided.finite_B, StopReason.GRADIENT_NOT_FINITE)
            self._stop(~torch.isfinite(x).flatten(1).all(dim=1), StopReason.PICTURE_NOT_FINITE)
            level = blend_level(index, self._settings)
            target = self._noised_targets(level, moment, Purpose.BLEND)
            x = self._unless_stopped(x, target)
            if blends(index, self._settings):
                x = blend(x, target, self._inputs.masks_B1HW, index, self._settings)
            if watch is not None:
                watch(taken, index, self._unless_stopped(predicted, self._inputs.targets_BCHW))
        result = predicted if self._settings.compat.prediction_as_result else x
        return Sampled(self._unless_stopped(result, self._inputs.targets_BCHW), tuple(self._reasons))

    def _step(self, x_BCHW: Tensor, guided: Guided, moment: Moment) -> Tensor:
        if self._settings.ddim:
            return ddim_step(self._schedule, x_BCHW, guided.prediction, moment.index, guided.gradient_BCHW)
        noise = moment.noise(Purpose.STEP, x_BCHW.shape[1:], x_BCHW.device)
        return ddpm_step(guided.prediction, noise, moment.index, guided.gradient_BCHW)

    def _noised_targets(self, level: int, moment: Moment, purpose: Purpose) -> Tensor:
        """The targets at a noise level; as they are below level 0."""
        targets = self._inputs.targets_BCHW
        if level < 0:
            return targets
        noise = moment.noise(purpose, targets.shape[1:], targets.device)
        return self._schedule.q_sample(targets, level, noise)

    def _stop(self, rows_B: Tensor, reason: StopReason) -> None:
        for row in torch.nonzero(rows_B).flatten().tolist():
            self._reasons[row] = self._reasons[row] or reason

    def _unless_stopped(self, x_BCHW: Tensor, otherwise_BCHW: Tensor) -> Tensor:
        """Rows that stopped go on as the target, so that they stay finite."""
        stopped = [row for row, reason in enumerate(self._reasons) if reason is not None]
        if not stopped:
            return x_BCHW
        x = x_BCHW.clone()
        x[stopped] = otherwise_BCHW[stopped]
        return x
