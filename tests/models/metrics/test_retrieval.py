"""Retrieval and gaze: by hand, and what they must not notice."""

import numpy as np
import pytest

from models.metrics.gaze import gaze_difference, gaze_offsets
from models.metrics.retrieval import retrieval_ranks

EYE = ((33, 133), (362, 263))


def test_ranks_by_hand() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    queries = np.array([[3.0, 0.1], [3.0, 0.1], [3.0, 0.1], [0.0, -1.0]])
    ranks = retrieval_ranks(queries, ["a", "b", "c", "b"], gallery, ["a", "b", "c"])
    assert ranks.tolist() == [1, 3, 2, 3]


def test_another_photograph_of_the_same_person_is_a_hit() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    query = np.array([[1.0, 0.05]])
    assert retrieval_ranks(query, ["b"], gallery, ["b", "a", "b"]).tolist() == [1]
    assert retrieval_ranks(query, ["b"], gallery, ["a", "a", "b"]).tolist() == [2]


def test_a_tie_does_not_help() -> None:
    """An encoder that says the same of everybody finds nobody."""
    same = np.ones((5, 3))
    people = list("abcde")
    assert retrieval_ranks(same, people, same, people).tolist() == [5] * 5


def test_retrieval_refusals() -> None:
    one = np.ones((1, 2))
    with pytest.raises(ValueError, match="nobody in the gallery is z"):
        retrieval_ranks(one, ["z"], one, ["a"])
    with pytest.raises(ValueError, match="query row 0 is zero"):
        retrieval_ranks(0 * one, ["a"], one, ["a"])
    with pytest.raises(ValueError, match="2 numbers and the gallery 3"):
        retrieval_ranks(one, ["a"], np.ones((1, 3)), ["a"])


@pytest.fixture
def mesh() -> np.ndarray:
    """A mesh whose eyes are 40 px wide; each iris 4 px right of the middle and 2 px below."""
    mesh = np.random.default_rng(0).normal(size=(1, 478, 3)) * 50
    for (left, right), iris, x in zip(EYE, (slice(468, 473), slice(473, 478)), (100, 200), strict=True):
        mesh[0, left, :2], mesh[0, right, :2] = (x, 90), (x + 40, 90)
        ring = np.array([[0, 0], [3, 0], [-3, 0], [0, 3], [0, -3]])
        mesh[0, iris, :2] = ring + np.array([x + 24, 92])
    return mesh


def test_gaze_in_eye_widths(mesh: np.ndarray) -> None:
    assert gaze_offsets(mesh)[0] == pytest.approx(np.array([[0.1, 0.05], [0.1, 0.05]]))
    looking = mesh.copy()
    looking[0, 468:473, 0] -= 8
    assert gaze_difference(looking, mesh) == pytest.approx([8 / 40 / 2])


def test_gaze_ignores_place_size_and_roll(mesh: np.ndarray) -> None:
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = mesh.copy()
    moved[0, :, :2] = 1.7 * mesh[0, :, :2] @ turn.T + (31, -12)
    assert gaze_difference(moved, mesh) == pytest.approx([0], abs=1e-12)


def test_gaze_refusals(mesh: np.ndarray) -> None:
    mesh[0, 33] = mesh[0, 133]
    with pytest.raises(ValueError, match="corners of an eye of mesh 0 coincide"):
        gaze_offsets(mesh)
    with pytest.raises(ValueError, match=r"must be \(N, 478, 3\)"):
        gaze_offsets(mesh[0])
