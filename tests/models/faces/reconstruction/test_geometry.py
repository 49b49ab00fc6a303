"""Landmarks and pose of known coefficients against an independent projection in plain NumPy."""

import numpy as np
import pytest
import torch

from models.faces.landmarks import head_pose
from models.faces.reconstruction.bfm import FaceModel, synthetic_face_model
from models.faces.reconstruction.coefficients import split_coefficients
from models.faces.reconstruction.geometry import FaceGeometry, pose_degrees, project, rotation_matrix


def turn(axis: int, angle: float) -> np.ndarray:
    """Rotation about one axis by the right-hand rule."""
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first], matrix[first, second] = np.sin(angle), -np.sin(angle)
    return matrix


def by_hand(model: FaceModel, row: np.ndarray, roll: bool = True) -> np.ndarray:
    """Every vertex as (column, row, depth) of the crop, float64 (N, 3)."""
    row = row.astype(np.float64)
    shape = model.mean_shape + model.identity_basis @ row[:80] + model.expression_basis @ row[80:144]
    x, y, z = row[224:227]
    rotation = turn(2, z if roll else 0) @ turn(1, y) @ turn(0, x)
    found = []
    for vertex in shape:
        right, up, near = rotation @ vertex + row[254:257]
        away = 10 - near
        origin = 10 - row[256]
        found.append(
            (112 + 1015 * right / away, 223 - (112 + 1015 * up / away), 1015 * (away - origin) / origin)
        )
    return np.array(found)


def test_landmarks_of_known_coefficients(face_model: FaceModel, rows: np.ndarray) -> None:
    landmarks = FaceGeometry(face_model)(split_coefficients(torch.from_numpy(rows)))
    assert landmarks.in_front_B.tolist() == [True] * 4
    for index, row in enumerate(rows):
        vertices = by_hand(face_model, row)
        for found, vertex_list in (
            (landmarks.landmarks_68, face_model.landmarks_68),
            (landmarks.landmarks_106, face_model.landmarks_106),
            (landmarks.landmarks_134, face_model.landmarks_134),
        ):
            assert np.abs(found[index].numpy() - vertices[vertex_list]).max() < 0.002
        assert 50 < np.ptp(vertices[:, 0]) < 250


def test_the_outline_is_the_outermost_vertex_of_each_line(face_model: FaceModel, rows: np.ndarray) -> None:
    landmarks = FaceGeometry(face_model)(split_coefficients(torch.from_numpy(rows)))
    moved = 0
    for index, row in enumerate(rows):
        vertices, upright = by_hand(face_model, row), by_hand(face_model, row, roll=False)
        expected = vertices[face_model.landmarks_106]
        for line in range(33):
            if line != 16:
                on_line = np.flatnonzero(face_model.profile_line == line)
                x = upright[on_line, 0]
                vertex = on_line[np.argmin(x) if line < 16 else np.argmax(x)]
                moved += vertex != face_model.landmarks_106[line]
                expected[line] = vertices[vertex]
        assert np.abs(landmarks.landmarks_106_silhouette[index].numpy() - expected).max() < 0.002
    assert moved > 100


def test_a_batch_gives_what_its_faces_give_alone(face_model: FaceModel, rows: np.ndarray) -> None:
    geometry = FaceGeometry(face_model)
    together = geometry(split_coefficients(torch.from_numpy(rows)))
    for index, row in enumerate(rows):
        alone = geometry(split_coefficients(torch.from_numpy(row[None])))
        for name in ("landmarks_68", "landmarks_106", "landmarks_106_silhouette", "landmarks_134"):
            torch.testing.assert_close(
                getattr(together, name)[index], getattr(alone, name)[0], rtol=1e-5, atol=1e-4
            )


def test_axes_point_where_they_should() -> None:
    """Right is right, up is a smaller row, nearer is larger."""
    origin, right, up, near = project(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 5]]]))[0]
    assert origin.tolist() == [112, 111]
    assert right.tolist() == [112 + 101.5, 111]
    assert up.tolist() == [112, 111 - 101.5]
    assert near.tolist() == [112 + 203, 111]


def test_rotations_are_those_of_three_turns() -> None:
    angles = np.random.default_rng(3).uniform(-1.5, 1.5, (20, 3))
    found = rotation_matrix(torch.from_numpy(angles)).numpy()
    expected = np.array([turn(2, z) @ turn(1, y) @ turn(0, x) for x, y, z in angles])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_poses_have_the_signs_of_the_mesh() -> None:
    single = np.radians([[0, 25, 0], [-15, 0, 0], [0, 0, -35], [0, 0, 0]])
    poses = pose_degrees(torch.from_numpy(single))
    expected = [[25, 0, 0], [0, 15, 0], [0, 0, 35], [0, 0, 0]]
    np.testing.assert_allclose(poses, expected, atol=1e-4)
    angles = np.random.default_rng(4).uniform(-0.8, 0.8, (10, 3))
    for (x, y, z), pose in zip(angles, pose_degrees(torch.from_numpy(angles)), strict=True):
        transform = np.eye(4)
        transform[:3, :3] = turn(2, z) @ turn(1, y) @ turn(0, x)
        np.testing.assert_allclose(pose, head_pose(transform.astype(np.float32)), atol=1e-3)
        nose = transform[:3, 2]
        assert np.sign(pose[0]) == np.sign(nose[0])
        assert np.sign(pose[1]) == np.sign(nose[1])


def test_depth_has_the_scale_of_the_crop(face_model: FaceModel) -> None:
    """A head turned by a right angle shows its depth as width."""
    rows = torch.zeros(2, 257)
    rows[1, 225] = torch.pi / 2
    front, side = FaceGeometry(face_model)(split_coefficients(rows)).landmarks_68
    # Perspective changes lengths by up to a tenth at this distance.
    torch.testing.assert_close(side[:, 0] - 112, -front[:, 2], rtol=0.12, atol=3)


def test_a_face_behind_the_camera_is_told(face_model: FaceModel, rows: np.ndarray) -> None:
    moved = rows.copy()
    moved[1, 256] = 11
    landmarks = FaceGeometry(face_model)(split_coefficients(torch.from_numpy(moved)))
    assert landmarks.in_front_B.tolist() == [True, False, True, True]


@pytest.mark.parametrize("vertices", [200, 5000])
def test_only_needed_vertices_are_kept(vertices: int) -> None:
    model = synthetic_face_model(seed=3, vertices=vertices)
    landmarks = (model.landmarks_68, model.landmarks_106, model.landmarks_134)
    needed = set(np.flatnonzero(model.profile_line >= 0)).union(*landmarks)
    assert len(FaceGeometry(model).mean_V3) == len(needed)
