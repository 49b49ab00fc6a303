"""Exact swaps as training data: what is seen, what is the answer, and whose identity goes with it."""

import numpy as np
import pytest
import torch

from models.swap.exact_data import ExactSwapData

PEOPLE = np.array(["a", "a", "b", "b", "c"])
PHOTOS = np.arange(5.0)[:, None, None]
SOURCES, TARGETS = np.array([0, 2, 4]), np.array([2, 4, 1])


def made(**changes) -> ExactSwapData:
    given = {
        "truth_latents_MLC": np.array([500.0, 600.0, 700.0])[:, None, None],
        "source_M": SOURCES,
        "target_M": TARGETS,
        "photo_latents_NLC": PHOTOS,
        "condition_latents_NLC": PHOTOS + 100,
        "identity_ND": PHOTOS[:, 0] + 20,
        "people": PEOPLE,
        "reference_ND": PHOTOS[:, 0] + 30,
        "points_N52": np.broadcast_to(PHOTOS + 40, (5, 5, 2)),
    }
    return ExactSwapData(**{**given, **changes})


def test_the_answer_is_the_swap_the_condition_the_targets_and_the_identity_the_sources():
    data = made()
    batch = data.read(data.draw(np.random.default_rng(0), 300))
    parts = (batch.target_latents_BLC, batch.condition_latents_BLC, batch.identity_BD, batch.reference_BD)
    assert batch.points_B52 is not None
    parts = (*(part for part in parts if part is not None), batch.points_B52[:, 0, 0])
    seen = {tuple(row) for row in torch.stack([part.flatten() for part in parts], dim=1).int().tolist()}
    assert seen == {
        (500, 102, 20, 30, 42),  # a on a photograph of b, a's identity from either photograph
        (500, 102, 21, 31, 42),
        (600, 104, 22, 32, 44),
        (600, 104, 23, 33, 44),
        (700, 101, 24, 34, 41),  # c has one photograph, and it is not the answer
    }
    again = data.draw(np.random.default_rng(0), 300)
    assert (again == data.draw(np.random.default_rng(0), 300)).all()


def test_held_out_swaps_are_shown_and_never_learnt():
    data = made(held_out=1, seed=3)
    assert len(data) == 2
    learnt = set(data.read(data.draw(np.random.default_rng(1), 100)).target_latents_BLC.flatten().tolist())
    shown = data.validation()
    source = int(shown.source_latents_VLC.item())
    (swap,) = np.flatnonzero(source == SOURCES)
    assert learnt == {500.0, 600.0, 700.0} - {(5 + swap) * 100.0}
    assert shown.target_latents_VLC.item() == TARGETS[swap]
    assert shown.condition_latents_VLC.item() == TARGETS[swap] + 100
    assert shown.identity_VD.item() == source + 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_M": SOURCES[:2]}, "3 exact swaps need a source and a target each, there are 2 and 3"),
        ({"target_M": np.array([1, 4, 1])}, "a swap needs two people"),
        ({"identity_ND": np.zeros((4, 1))}, "differ in length"),
        ({"held_out": 3}, "3 of 3 exact swaps"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)
