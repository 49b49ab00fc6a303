"""Points read back from pictures of dots: to the pixel where dots stand alone, and in the right order."""

import numpy as np
import pytest

from models.faces.condition import iris_dots, landmark_dots
from models.faces.dot_recovery import DotsError, _assign, recover_dots
from models.faces.iris import iris_from_mesh
from models.faces.landmarks import landmarks_68_from_mesh

SIDE = 512


def framed(points_N2: np.ndarray, degrees: float = 0.0, width: float = 300.0) -> np.ndarray:
    """Points turned about their centre and fitted into the middle of a picture of `SIDE` pixels."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centred = (points_N2 - points_N2.mean(axis=0)) @ turn
    return (centred * width / np.ptp(centred[:, 0]) + SIDE / 2).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 20, -35])
@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_landmarks_come_back_to_the_pixel_and_in_order(fits, name: str, degrees: float) -> None:
    truth = framed(landmarks_68_from_mesh(fits[name].points_478x3)[:, :2], degrees)
    picture = landmark_dots(truth, (SIDE, SIDE), None)
    found = recover_dots(picture, "landmarks")
    np.testing.assert_array_equal(landmark_dots(found.points, (SIDE, SIDE), None), picture)
    gaps = np.linalg.norm(truth[:, None] - truth[None], axis=2) + 1e9 * np.eye(68)
    alone = gaps.min(axis=1) > 13  # two diamonds of +-4 px that do not touch
    assert alone.sum() > 30
    assert found.certain >= alone.sum()
    assert np.abs(found.points - truth)[alone].max() <= 0.5
    # what alignment needs, eyes and mouth corners, is right in spite of crowded dots
    assert np.abs(found.points - truth)[[*range(36, 48), 48, 54]].max() <= 3


def test_lone_irises_come_back_and_crowded_ones_near(fits) -> None:
    mesh = fits["astronaut"].points_478x3
    for width, error in ((300, 0.5), (110, 3.0)):
        truth = framed(iris_from_mesh(mesh), width=width)
        picture = iris_dots(truth, (SIDE, SIDE), None)
        found = recover_dots(picture, "iris")
        np.testing.assert_array_equal(iris_dots(found.points, (SIDE, SIDE), None), picture)
        assert np.abs(found.points - truth).max() <= error


def test_points_in_one_place_share_a_dot(fits) -> None:
    truth = framed(landmarks_68_from_mesh(fits["astronaut"].points_478x3)[:, :2])
    truth[61] = truth[67]
    found = recover_dots(landmark_dots(truth, (SIDE, SIDE), None), "landmarks")
    assert found.dots < 68
    assert found.points.shape == (68, 2)


def test_what_is_no_picture_of_dots_is_refused() -> None:
    black = np.zeros((SIDE, SIDE), np.bool_)
    with pytest.raises(DotsError, match="black"):
        recover_dots(black, "landmarks")
    speck = black.copy()
    speck[100, 100] = True
    with pytest.raises(DotsError, match="1 pixels belong to no dot"):
        recover_dots(speck, "iris")
    crowd = np.random.default_rng(0).uniform(20, 490, (80, 2)).astype(np.float32)
    with pytest.raises(DotsError, match="more than 68"):
        recover_dots(landmark_dots(crowd, (SIDE, SIDE), None), "landmarks")


def test_assignment_is_the_cheapest() -> None:
    from scipy.optimize import linear_sum_assignment

    random = np.random.default_rng(1)
    for rows, columns in ((1, 1), (7, 7), (20, 34)):
        costs = random.random((rows, columns))
        theirs = costs[linear_sum_assignment(costs)].sum()
        ours = _assign(costs)
        assert len(set(ours.tolist())) == rows
        np.testing.assert_allclose(costs[np.arange(rows), ours].sum(), theirs)
