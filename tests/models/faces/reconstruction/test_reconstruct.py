"""From photographs to landmarks in their own pixels: a network that knows the answer, and a random one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.faces.detection import CenterFace, choose_face
from models.faces.network_sizes import ResNetConfig
from models.faces.reconstruction.bfm import FaceModel
from models.faces.reconstruction.five_points import FivePointAlignment, align_five_points
from models.faces.reconstruction.network import ReconstructionNet
from models.faces.reconstruction.reconstruct import LANDMARK_SETS, FaceReconstructor

Randomise = Callable[[nn.Module, int], dict[str, Tensor]]

SMALL = ResNetConfig(block="bottleneck", depths=(1, 1, 1, 1), width=4)


@pytest.fixture(scope="module")
def alignments(photos: dict[str, np.ndarray], detector: CenterFace) -> dict[str, FivePointAlignment]:
    """From real detections."""
    found = {}
    for name, image in photos.items():
        detections = detector.detect(image)
        face = choose_face(detections)
        assert face is not None
        found[name] = align_five_points(detections.keypoints_N52[face], image.shape[:2])
    return found


def constant_network(row: np.ndarray) -> ReconstructionNet:
    """A network that sees these coefficients in every picture."""
    network = ReconstructionNet(SMALL).requires_grad_(False)
    starts = np.cumsum([0, 80, 64, 80, 3, 27, 2])
    for head, start in zip(network.final_layers, starts, strict=True):
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight.zero_()
        head.bias.copy_(torch.from_numpy(row[start : start + len(head.bias)]))
    return network


def test_known_coefficients_come_back_as_landmarks_of_the_photograph(
    face_model: FaceModel,
    rows: np.ndarray,
    photos: dict[str, np.ndarray],
    alignments: dict[str, FivePointAlignment],
) -> None:
    for row in rows:
        results = FaceReconstructor(constant_network(row), face_model).reconstruct(
            list(photos.values()), list(alignments.values())
        )
        angle_x, angle_y, angle_z = row[224:227].astype(np.float64)
        (cx, cy, cz), (sx, sy, sz) = np.cos(row[224:227]), np.sin(row[224:227])
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        shape = face_model.mean_shape + face_model.identity_basis @ row[:80]
        shape = shape + face_model.expression_basis @ row[80:144]
        points = shape @ (about_z @ about_y @ about_x).T + row[254:257]
        away = 10 - points[:, 2]
        columns, heights = 112 + 1015 * points[:, 0] / away, 112 + 1015 * points[:, 1] / away
        for name, result in zip(photos, results, strict=True):
            assert result is not None
            width, height, scale, x, up = alignments[name].trans_params
            w, h = int(width * scale), int(height * scale)
            left = int(w / 2 - 112 + (x - width / 2) * scale)
            top = int(h / 2 - 112 + (height / 2 - up) * scale)
            expected = np.stack([(columns + left) / w * width, (223 - heights + top) / h * height], axis=1)
            for found, vertices in (
                (result.landmarks_68, face_model.landmarks_68),
                (result.landmarks_106, face_model.landmarks_106),
                (result.landmarks_134, face_model.landmarks_134),
            ):
                assert np.abs(found[:, :2] - expected[vertices]).max() < 0.01
                depth = 1015 * (row[256] - points[vertices, 2]) / (10 - row[256]) / scale
                assert np.abs(found[:, 2] - depth).max() < 0.01
            chin = face_model.landmarks_106[16]
            np.testing.assert_allclose(result.landmarks_106_silhouette[16, :2], expected[chin], atol=0.01)
            np.testing.assert_allclose(result.coefficients_257, row, atol=1e-6)
            if angle_x == angle_y == angle_z == 0:
                np.testing.assert_allclose(result.pose_3, 0, atol=1e-4)
            else:
                # Turned to the picture's right, the nose points there.
                assert np.sign(result.pose_3[0]) == np.sign(angle_y)


def test_a_frontal_face_lies_on_the_face_of_the_photograph(
    face_model: FaceModel, photos: dict[str, np.ndarray], alignments: dict[str, FivePointAlignment], fits
) -> None:
    """The mean shape, unturned, covers the real face: alignment and projection share one scale."""
    results = FaceReconstructor(constant_network(np.zeros(257, np.float32)), face_model).reconstruct(
        list(photos.values()), list(alignments.values())
    )
    for name, result in zip(photos, results, strict=True):
        assert result is not None
        mesh = fits[name].points_478x3[:468, :2]
        middle = (mesh.min(axis=0) + mesh.max(axis=0)) / 2
        found = result.landmarks_134[:, :2]
        centre = (found.min(axis=0) + found.max(axis=0)) / 2
        assert np.linalg.norm(centre - middle) < 0.35 * np.ptp(mesh[:, 1])
        assert 0.6 < np.ptp(found[:, 1]) / np.ptp(mesh[:, 1]) < 1.7


def test_a_batch_gives_what_its_photographs_give_alone(
    face_model: FaceModel,
    photos: dict[str, np.ndarray],
    alignments: dict[str, FivePointAlignment],
    randomise: Randomise,
) -> None:
    network = ReconstructionNet(SMALL)
    randomise(network, 6)
    for head in network.final_layers[3:]:
        assert isinstance(head, nn.Conv2d)
        head.weight.mul_(0.1)
    reconstructor = FaceReconstructor(network, face_model)
    names = ["astronaut", "hopper", "astronaut"]
    together = reconstructor.reconstruct(
        [photos[name] for name in names], [alignments[name] for name in names]
    )
    for name, result in zip(names, together, strict=True):
        alone = reconstructor.reconstruct([photos[name]], [alignments[name]])[0]
        assert result is not None
        assert alone is not None
        np.testing.assert_allclose(result.coefficients_257, alone.coefficients_257, rtol=1e-5, atol=1e-5)
        for landmark_set in LANDMARK_SETS:
            np.testing.assert_allclose(
                getattr(result, landmark_set), getattr(alone, landmark_set), rtol=1e-5, atol=1e-3
            )
        np.testing.assert_array_equal(result.alignment_2x3, alignments[name].matrix_2x3)
    first, second, _ = together
    assert first is not None
    assert second is not None
    assert np.abs(first.coefficients_257 - second.coefficients_257).max() > 1e-3


def test_a_face_behind_the_camera_gives_none(
    face_model: FaceModel, photos: dict[str, np.ndarray], alignments: dict[str, FivePointAlignment]
) -> None:
    row = np.zeros(257, np.float32)
    row[256] = 10.5
    reconstructor = FaceReconstructor(constant_network(row), face_model)
    assert reconstructor.reconstruct([photos["hopper"]], [alignments["hopper"]]) == [None]
    with pytest.raises(ValueError, match="1 photographs came with 2 alignments"):
        reconstructor.reconstruct([photos["hopper"]], list(alignments.values()))
