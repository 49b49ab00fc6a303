"""The benches on training and triplets: every shape does the same work, and the table tells it right."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from benches import original_loops, train_step, triplets
from benches.original_loops import CAUSES, ORIGINAL, FaceJudge, Photographs, TextEncoders, Trainer
from models.swap.base import SwapBase
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper

PHOTOS = 4


@pytest.fixture(scope="module")
def base() -> SwapBase:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return train_step.loaded_base()


@pytest.fixture(scope="module")
def encoders(base: SwapBase) -> TextEncoders:
    return TextEncoders(base.config.transformer)


@pytest.fixture(scope="module")
def photos(base: SwapBase) -> Photographs:
    return original_loops.photographs(base, FaceJudge(), PHOTOS)


def test_triplets_are_the_same_however_they_are_made(
    base: SwapBase, encoders: TextEncoders, photos: Photographs
) -> None:
    """Batches, kept latents and a kept prompt change no picture; the real swapper makes them too."""
    base.model.requires_grad_(False)
    sampling = SamplingConfig(steps=2)
    short = replace(ORIGINAL, text_tokens=base.config.transformer.text_tokens)
    mine = original_loops.ours(3, short.text_tokens)
    one, many = (
        triplets.Generator(base, encoders, photos, shape, sampling).pictures().astype(int)
        for shape in (short, mine)
    )
    assert one.shape == (PHOTOS, 32, 32, 3)
    assert np.abs(one - many).max() <= 1
    prompt = base.model.prompts.prompt(1)
    like_the_base = triplets.Generator(base, encoders, photos, mine, sampling)
    like_the_base.kept = prompt
    real = triplets.our_pictures(Swapper(base), photos, 3, sampling)
    assert np.abs(like_the_base.pictures().astype(int) - real).max() <= 1


def test_steps_train_and_only_the_gate_spares_decoding(
    base: SwapBase, encoders: TextEncoders, photos: Photographs
) -> None:
    mine = original_loops.ours(8, 4)
    gated = Trainer(base, encoders, FaceJudge(), photos, mine, 16)
    short = replace(ORIGINAL, text_tokens=4)
    all_decoded = Trainer(base, encoders, FaceJudge(), photos, short, 16)
    for trainer in (gated, all_decoded):
        assert np.isfinite(trainer.step())
    assert all_decoded.decoded == 16
    assert 0 <= gated.decoded < 16
    seconds = train_step.our_steps(base, FaceJudge(), photos, 4, 3)
    assert len(seconds) == 3
    assert min(seconds) > 0


def test_the_ladder_ends_at_our_shape() -> None:
    mine = original_loops.ours(16, 4)
    rungs = list(original_loops.ladder(mine, CAUSES).values())
    assert rungs[0] == ORIGINAL
    assert rungs[-1] == mine
    for above, below in pairwise(rungs):
        assert sum(vars(above)[name] != vars(below)[name] for name in vars(mine)) == 1
    for shape in original_loops.one_by_one(mine, CAUSES).values():
        assert sum(vars(shape)[name] != vars(mine)[name] for name in vars(mine)) == 1


@pytest.mark.parametrize(("own", "passed"), [(0.5, True), (0.7, False)])
def test_the_bar_is_about_the_real_code(own: float, passed: bool) -> None:
    rungs = ["original", *(f"+ {name}" for name in CAUSES)]
    seconds = dict(zip(rungs, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), strict=True))
    seconds |= {f"ours, not {name}": 1.0 for name in CAUSES}
    seconds |= {original_loops.SAME_PROMPT: 0.75, train_step.OURS: own}
    found = {name: {"median": value} for name, value in seconds.items()}
    facts = original_loops.told(found, CAUSES, train_step.OURS, train_step.BAR)
    assert facts["times_the_original"] == round(1.0 / own, 2)
    assert facts["times_the_original_with_our_prompt_length"] == round(0.75 / own, 2)
    assert facts["the_real_loop_over_the_last_rung"] == own / 0.5
    assert facts["passed"] == passed
    assert facts["each_cause"]["prompt kept"] == {
        "down_the_ladder": round(1.0 / 0.9, 3),
        "alone_missing_from_ours": 2.0,
    }
