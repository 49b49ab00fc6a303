"""What a guided swap costs: the count against torch's own on a real pass, and what settings make of it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.diffface.config import tiny
from models.diffface.cost import guided_passes, swap_flops
from models.diffface.denoiser import Denoiser
from models.diffface.experts.weights import ExpertWeights
from models.diffface.settings import DiffFaceSettings

ONE = DiffFaceSettings(
    timestep_respacing="4",
    skip_timesteps=1,
    masking_threshold=1,
    aug_num=1,
    iterations_num=1,
    loss_weight=0,
    expert_weights=ExpertWeights(parsing=0, gaze=0, pixel=0),
)
"""Three steps of one repeat by the denoiser alone."""


def test_the_denoisers_pass_is_what_torch_counts_on_a_real_one() -> None:
    torch.set_num_threads(1)
    denoiser = Denoiser(tiny()).eval().requires_grad_(requires_grad=False)
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        denoiser(x, torch.zeros(1, dtype=torch.long), torch.zeros(1, 128)).sum().backward()
    assert x.grad is not None
    passes, sizes = guided_passes("world")
    # attention is counted as the fused kernel, whose pass back has one product more
    assert passes["denoiser"] == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert sizes["denoiser"] == 1_909_422


def test_settings_scale_the_work() -> None:
    passes, _ = guided_passes("world")

    def flops(**changes: object) -> float:
        return swap_flops("world", DiffFaceSettings.model_validate({**dict(ONE), **changes}))[0]

    alone = 3 * passes["denoiser"]
    assert flops() == alone
    assert flops(iterations_num=4) == 4 * alone
    assert flops(loss_weight=6000, aug_num=8) == alone + 3 * 8 * passes["identity"]
    assert flops(expert_weights=ExpertWeights(gaze=0, pixel=0)) == alone + 3 * passes["parsing"]
    window = ExpertWeights(parsing=0, pixel=0, gaze_window=(0, 2))
    assert flops(expert_weights=window) == alone + 2 * passes["gaze"]  # both eyes in step 1


def test_the_published_networks_are_counted_at_their_size() -> None:
    passes, sizes = guided_passes("published")
    assert sizes["denoiser"] == 554_388_998
    assert sizes["identity"] > 40_000_000
    assert sizes["gaze"] == 2_567_432
    assert passes["denoiser"] > 50 * passes["identity"] > 0
