from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from models.swap.data import StudentData, TeacherData, TrainingBatch
from models.swap.reading import read_batches
from models.swap.training_recipe import TrainingRecipe

INDEX = np.arange(6, dtype=np.float32)
PEOPLE = np.array(["x", "y", "x", "z", "y", "x"])
LATENTS = np.repeat(INDEX, 4).reshape(6, 2, 2)


def _teacher(**options) -> TeacherData:
    return TeacherData(LATENTS, LATENTS + 100, INDEX[:, None], PEOPLE, **options)


def _batch(data, count: int = 500, seed: int = 0) -> TrainingBatch:
    return data.read(data.draw(np.random.default_rng(seed), count))


def _pairs(batch: TrainingBatch) -> set[tuple[int, int]]:
    targets, sources = batch.target_latents_BLC[:, 0, 0].tolist(), batch.identity_BD[:, 0].tolist()
    return {(int(target), int(source)) for target, source in zip(targets, sources, strict=True)}


def _of_one_person(a: int, b: int) -> bool:
    return bool(PEOPLE[a] == PEOPLE[b])


def test_teacher_data_takes_identity_from_another_photo_of_the_same_person():
    data = _teacher()
    assert len(data) == 5
    batch = _batch(data)
    assert torch.equal(batch.condition_latents_BLC, batch.target_latents_BLC + 100)
    assert (batch.reference_BD, batch.points_B52) == (None, None)
    assert _pairs(batch) == {(a, b) for a in range(6) for b in range(6) if a != b and _of_one_person(a, b)}
    assert torch.equal(batch.identity_BD, _batch(data).identity_BD)
    with pytest.raises(ValueError, match="no person has two photos"):
        TeacherData(LATENTS, LATENTS, INDEX[:, None], np.arange(6))


def test_a_source_may_be_its_own_target_where_that_is_wanted():
    data = _teacher(source_may_be_target=True)
    assert len(data) == 6
    pairs = _pairs(_batch(data, 1000))
    assert pairs == {(a, b) for a in range(6) for b in range(6) if _of_one_person(a, b)}


def test_references_are_of_the_source_and_points_of_the_target():
    points = np.arange(60, dtype=np.float32).reshape(6, 5, 2)
    batch = _batch(_teacher(reference_ND=INDEX[:, None] * 10, points_N52=points), 50)
    assert batch.reference_BD is not None
    assert batch.points_B52 is not None
    assert torch.equal(batch.reference_BD, batch.identity_BD * 10)
    assert torch.equal(batch.points_B52[:, 0, 0], batch.target_latents_BLC[:, 0, 0] * 10)


def test_held_out_photos_are_never_targets_and_make_the_validation():
    data = _teacher(held_out=2, seed=4)
    assert len(data) == 3
    seen = {target for target, _ in _pairs(_batch(data))}
    for other_identity in (True, False):
        rows = data.validation(other_identity=other_identity)
        targets = rows.target_latents_VLC[:, 0, 0].long().tolist()
        sources = rows.identity_VD[:, 0].long().tolist()
        assert seen | set(targets) == {0, 1, 2, 4, 5}
        assert not seen & set(targets)
        assert torch.equal(rows.condition_latents_VLC, rows.target_latents_VLC + 100)
        assert rows.source_latents_VLC[:, 0, 0].long().tolist() == sources
        same = [_of_one_person(a, b) for a, b in zip(targets, sources, strict=True)]
        assert same == [not other_identity] * 2
        assert targets != sources
        again = _teacher(held_out=2, seed=4).validation(other_identity=other_identity)
        assert torch.equal(again.identity_VD, rows.identity_VD)
    with pytest.raises(ValueError, match="5 of 5 possible targets are to be held out"):
        _teacher(held_out=5)


def test_student_data_conditions_on_swaps_and_rebuilds_the_original():
    people = np.array([0, 0, 1, 1])
    photos = INDEX[:4, None, None]
    swaps = np.array([50.0, 60.0, 70.0])[:, None, None]
    data = StudentData(swaps, np.array([0, 3, 3]), photos, INDEX[:4, None], people)
    batch = _batch(data, 200)
    parts = (batch.condition_latents_BLC, batch.target_latents_BLC, batch.identity_BD)
    rows = {tuple(line) for line in torch.stack([part.flatten() for part in parts], dim=1).long().tolist()}
    assert rows == {(50, 0, 1), (60, 3, 2), (70, 3, 2)}
    with pytest.raises(ValueError, match="needs another photo"):
        StudentData(swaps, np.array([0, 1, 2]), photos, INDEX[:4, None], np.array([0, 0, 1, 2]))
    held = StudentData(swaps, np.array([0, 3, 3]), photos, INDEX[:4, None], people, held_out=1, seed=1)
    seen = set(_batch(held).condition_latents_BLC.flatten().tolist())
    shown = held.validation(other_identity=True)
    assert seen | set(shown.condition_latents_VLC.flatten().tolist()) == {50.0, 60.0, 70.0}
    assert len(seen) == 2
    target, source = shown.target_latents_VLC.item(), shown.identity_VD.item()
    assert people[int(target)] != people[int(source)]


class Noted:
    """Real data that notes in which thread and order it was read."""

    def __init__(self) -> None:
        self.data, self.read_in = _teacher(), []

    def draw(self, rng, batch_size):
        return self.data.draw(rng, batch_size)

    def read(self, choices_BK):
        self.read_in.append(threading.current_thread().name)
        return self.data.read(choices_BK)


def _read(rows: range, ahead: int, first: int = 1) -> tuple[list[tuple[int, list]], Noted]:
    data, recipe = Noted(), TrainingRecipe(batch_size=8, seed=2)
    found = read_batches(data, recipe, rows, range(first, 6), ahead=ahead)
    return [(read.step, read.choices_BK.tolist()) for read in found], data


def test_batches_are_the_same_however_they_are_read_and_shared():
    alone, data = _read(range(8), 0)
    assert set(data.read_in) == {threading.current_thread().name}
    for ahead in (1, 3):
        found, data = _read(range(8), ahead)
        assert found == alone
        assert set(data.read_in) == {"batches_0"}
    left, right = _read(range(4), 1)[0], _read(range(4, 8), 1)[0]
    assert [(step, a + b) for (step, a), (_, b) in zip(left, right, strict=True)] == alone
    assert _read(range(8), 1, first=4)[0] == alone[3:]
    assert alone[0][1] != alone[1][1]


def test_an_error_while_reading_is_raised_at_its_step():
    class Broken(Noted):
        def read(self, choices_BK):
            if len(self.read_in) == 2:
                raise OSError("the disk is gone")
            return super().read(choices_BK)

    steps = read_batches(Broken(), TrainingRecipe(batch_size=2), range(2), range(1, 9))
    assert [next(steps).step, next(steps).step] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(steps)
