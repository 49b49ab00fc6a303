from __future__ import annotations

import numpy as np
import pytest

from models.faces.topology import LEFT_EYE, LOWER_LIP, RIGHT_EYE, UPPER_LIP
from models.metrics.attributes import (
    EXPRESSIVE,
    RIGID,
    expression_coefficient_difference,
    expression_mesh_difference,
    pose_difference,
)


@pytest.fixture
def mesh() -> np.ndarray:
    """Points in general position, (478, 3); what they look like does not matter."""
    return np.random.default_rng(3).normal(size=(478, 3)) * (40, 60, 20)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    matrix = np.eye(3)
    for angle, (first, second) in zip((yaw, pitch, roll), ((0, 2), (1, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def test_pose_difference_is_the_length_of_the_difference_the_short_way_round():
    first = [(10.0, 0.0, 0.0), (3.0, -4.0, 12.0), (0.0, 0.0, 179.0)]
    second = [(4.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, -178.0)]
    np.testing.assert_allclose(pose_difference(first, second), [6.0, 13.0, 3.0])


def test_coefficients_are_compared_by_distance():
    np.testing.assert_allclose(
        expression_coefficient_difference([[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]), [3.0, 0.0]
    )


def test_place_size_and_pose_of_a_mesh_drop_out(mesh):
    moved = [
        scale * mesh @ rotation(*angles).T + shift
        for scale, angles, shift in (
            (0.2, (0.4, -0.3, 1.1), (500.0, 20.0, 3.0)),
            (7.0, (-1.0, 0.6, -2.9), (-30.0, 0.0, 0.0)),
        )
    ]
    np.testing.assert_allclose(expression_mesh_difference(moved, [mesh, mesh]), 0.0, atol=1e-9)


def test_a_moved_lip_counts_in_inter_ocular_distances(mesh):
    lips = sorted({*UPPER_LIP, *LOWER_LIP})
    eyes = np.linalg.norm(mesh[list(RIGHT_EYE)].mean(axis=0) - mesh[list(LEFT_EYE)].mean(axis=0))
    changed = mesh.copy()
    changed[lips, 1] += 0.3 * eyes
    turned = 2.5 * changed @ rotation(0.5, 0.2, -0.4).T + 11.0
    expected = 0.3 * np.sqrt(len(lips) / len(EXPRESSIVE))
    np.testing.assert_allclose(expression_mesh_difference([turned], [mesh]), [expected], rtol=1e-9)


def test_a_mirror_image_is_no_pose(mesh):
    assert expression_mesh_difference([mesh * (-1, 1, 1)], [mesh])[0] > 0.1


def test_what_moves_is_not_what_holds_the_mesh():
    assert not set(RIGID) & set(EXPRESSIVE)
    assert len(RIGID) > 20


def test_bad_input_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"angles must both be \(N, 3\)"):
        pose_difference([[1.0, 2.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="meshes hold a value that is not finite"):
        expression_mesh_difference([np.full_like(mesh, np.nan)], [mesh])
    with pytest.raises(ValueError, match="points all coincide"):
        expression_mesh_difference([np.ones_like(mesh)], [mesh])
    with pytest.raises(ValueError, match=r"expression coefficients must both be \(N, E\)"):
        expression_coefficient_difference([1.0], [1.0])
