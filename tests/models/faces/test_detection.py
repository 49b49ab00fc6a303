"""CenterFace on real photographs: one face each, two on a tile, the same face at every size."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faces.detection import CenterFace, Detections, choose_face, decode, network_size


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_one_face_in_each_portrait(photos, fits, detector: CenterFace, name: str) -> None:
    found = detector.detect(photos[name])
    assert len(found) == 1
    x0, y0, x1, y1 = found.boxes_N4[0]
    points = fits[name].points_478x3
    inside = (points[:, 0] > x0) & (points[:, 0] < x1) & (points[:, 1] > y0) & (points[:, 1] < y1)
    assert inside.mean() > 0.85
    iris_distance = np.linalg.norm(points[468, :2] - points[473, :2])
    eyes_nose_mouth = points[[468, 473, 1, 61, 291], :2]
    error = np.linalg.norm(found.keypoints_N52[0] - eyes_nose_mouth, axis=1) / iris_distance
    assert error.max() < 0.2, error


def test_a_tile_of_two_portraits_has_two_faces(photos, detector: CenterFace, face_mesh) -> None:
    left = photos["astronaut"]
    right = cv2.resize(photos["hopper"], (437, 512), interpolation=cv2.INTER_AREA)
    tile = np.concatenate([left, right], axis=1)
    found = detector.detect(tile)
    assert len(found) == 2
    order = np.argsort(found.boxes_N4[:, 0])
    assert found.boxes_N4[order[0], 2] < 512 < found.boxes_N4[order[1], 0]
    noses = []
    for index in order:
        fit = face_mesh.fit(tile, found.boxes_N4[index])
        assert fit is not None
        noses.append(fit.points_478x3[1, 0])
    assert noses[0] < 512 < noses[1]
    assert choose_face(found, "largest") == order[1]  # Hopper's face is the larger one


@pytest.mark.parametrize("side", [48, 64, 128, 256])
def test_the_same_face_is_found_when_the_photo_is_small(photos, detector: CenterFace, side: int) -> None:
    small = cv2.resize(photos["astronaut"], (side, side), interpolation=cv2.INTER_AREA)
    full = detector.detect(photos["astronaut"]).boxes_N4[0] * side / 512
    found = detector.detect(small)
    assert len(found) == 1
    overlap = np.minimum(full[2:], found.boxes_N4[0, 2:]) - np.maximum(full[:2], found.boxes_N4[0, :2])
    area = np.prod(full[2:] - full[:2]) + np.prod(found.boxes_N4[0, 2:] - found.boxes_N4[0, :2])
    assert np.prod(overlap) / (area - np.prod(overlap)) > 0.6


def test_no_face_in_texture_and_blank(detector: CenterFace) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for image in (noise, np.full((100, 100, 3), 128, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        found = detector.detect(image)
        assert len(found) == 0
        assert found.boxes_N4.shape == (0, 4)
        assert found.keypoints_N52.shape == (0, 5, 2)
        assert choose_face(found) is None


def test_decoding_a_hand_made_cell() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 0.75
    log_scale, offset = np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), np.float32)
    log_scale[:, 2, 5] = np.log([6.0, 4.0])  # 24 px high, 16 px wide
    offset[:, 2, 5] = [0.25, -0.25]  # 1 px down, 1 px left
    keypoints = np.zeros((10, 8, 8), np.float32)
    keypoints[:2, 2, 5] = [0.5, 0.25]  # y, then x
    boxes, scores, points = decode(heat, log_scale, offset, keypoints, 0.5)
    # Centre x = (5 - 0.25 + 0.5) * 4 = 21, centre y = (2 + 0.25 + 0.5) * 4 = 11.
    np.testing.assert_allclose(boxes, [[13, -1, 29, 23]], atol=1e-4)
    np.testing.assert_allclose(points[0, 0], [13 + 0.25 * 16, -1 + 0.5 * 24], atol=1e-4)
    np.testing.assert_allclose(points[0, 1], [13, -1], atol=1e-4)
    assert scores.tolist() == [0.75]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(512, 512, (512, 512)), (2000, 1000, (960, 480)), (64, 32, (320, 160)), (1000, 10, (960, 32))],
)
def test_network_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert network_size(height, width, 960) == expected


def test_choose_face_policies() -> None:
    boxes = np.array([[0, 0, 50, 50], [90, 40, 110, 60], [160, 60, 200, 100]], np.float32)
    found = Detections(boxes, np.ones(3, np.float32), np.zeros((3, 5, 2), np.float32))
    assert choose_face(found, "largest") == 0
    assert choose_face(found, "centre") == 1
    with pytest.raises(ValueError, match="unknown policy"):
        choose_face(found, "smallest")  # pyright: ignore[reportArgumentType] - the error is what is tested


def test_wrong_inputs_are_refused(detector: CenterFace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        detector.detect(np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="uint8 RGB"):
        detector.detect(np.zeros((10, 10, 3), np.float32))  # pyright: ignore[reportArgumentType] - same
    with pytest.raises(FileNotFoundError, match="no CenterFace"):
        CenterFace(tmp_path / "absent.onnx")
