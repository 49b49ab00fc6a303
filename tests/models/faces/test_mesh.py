"""The mesh on real photographs: geometry that must hold whatever the model's exact numbers are."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faces.mesh import FaceMesh, square_crop

EYE_CORNERS = [33, 133, 362, 263]


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_fit_has_the_documented_shapes_and_ranges(fits, photos, name: str) -> None:
    fit = fits[name]
    height, width = photos[name].shape[:2]
    assert fit.points_478x3.shape == (478, 3)
    assert fit.points_478x3.dtype == np.float32
    assert (fit.points_478x3[:, :2] >= 0).all()
    assert (fit.points_478x3[:, :2] <= (width, height)).all()
    assert fit.blendshapes_52.shape == (52,)
    assert ((fit.blendshapes_52 >= 0) & (fit.blendshapes_52 <= 1)).all()
    rotation = fit.transform_4x4[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    assert np.linalg.det(rotation) > 0.99
    # The nose tip is nearer the camera than the ears, by about half a face width.
    face_width = np.linalg.norm(fit.points_478x3[234, :2] - fit.points_478x3[454, :2])
    assert 0.3 < (fit.points_478x3[[234, 454], 2].mean() - fit.points_478x3[1, 2]) / face_width < 1.0


def test_points_move_with_the_photograph(photos, fits, detector, face_mesh: FaceMesh) -> None:
    """Padding the photo by 40 columns and 24 rows moves every point by that much."""
    moved = np.pad(photos["astronaut"], ((24, 0), (40, 0), (0, 0)), mode="edge")
    fit = face_mesh.fit(moved, detector.detect(photos["astronaut"]).boxes_N4[0] + np.array([40, 24, 40, 24]))
    assert fit is not None
    shift = fit.points_478x3[:, :2] - fits["astronaut"].points_478x3[:, :2]
    np.testing.assert_allclose(shift, np.broadcast_to([40.0, 24.0], shift.shape), atol=0.2)


def test_points_scale_with_the_photograph(photos, fits, detector, face_mesh: FaceMesh) -> None:
    half = cv2.resize(photos["hopper"], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    fit = face_mesh.fit(half, detector.detect(half).boxes_N4[0])
    assert fit is not None
    full = fits["hopper"].points_478x3[:, :2]
    error = np.linalg.norm(fit.points_478x3[:, :2] * 2 - full, axis=1)
    assert np.median(error) < 0.03 * np.linalg.norm(full[33] - full[263])


def test_face_at_the_border_keeps_its_place(photos, fits, detector, face_mesh: FaceMesh) -> None:
    """With 170 columns cut away the crop leaves the image, and the points only lose the offset."""
    cut = np.ascontiguousarray(photos["astronaut"][:, 170:])
    fit = face_mesh.fit(cut, detector.detect(cut).boxes_N4[0])
    assert fit is not None
    full = fits["astronaut"].points_478x3[EYE_CORNERS, :2]
    error = np.linalg.norm(fit.points_478x3[EYE_CORNERS, :2] + (170, 0) - full, axis=1)
    assert error.max() < 0.05 * np.linalg.norm(full[0] - full[3])


def test_no_face_gives_none(face_mesh: FaceMesh, photos) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert face_mesh.fit(noise, np.array([50.0, 50, 150, 150])) is None
    # A box beside the face: its crop shows the face, but the face is not the one in the box.
    assert face_mesh.fit(photos["astronaut"], np.array([290.0, 60, 410, 180])) is None


def test_square_crop_repeats_the_border() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    crop, (left, top) = square_crop(image, np.array([0.0, 0, 2, 2]), scale=2.0)
    assert (left, top) == (-1, -1)
    assert crop.shape == (4, 4, 3)
    np.testing.assert_array_equal(crop[1:, 1:], image[:3, :3])
    np.testing.assert_array_equal(crop[0, 1:], image[0, :3])


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-9, 0, -1, 4), (0, 0, float("nan"), 3)])
def test_impossible_boxes_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="box"):
        square_crop(np.zeros((10, 10, 3), np.uint8), np.array(box))


def test_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.task"):
        FaceMesh(tmp_path / "absent.task")


def test_native_chatter_goes_to_the_log_and_stderr_survives(task_path: Path, capfd, caplog) -> None:
    with caplog.at_level("DEBUG", logger="models.faces.mesh"), FaceMesh(task_path):
        print("still here", file=sys.stderr)
    assert "still here" in capfd.readouterr().err
    assert any(record.message.startswith("mediapipe: ") for record in caplog.records)
