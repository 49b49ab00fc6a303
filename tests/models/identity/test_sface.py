"""SFace through OpenCV's recogniser, on a small network of the published layout."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.identity.sface import SFACE_SAME_PERSON_DISTANCE, SFaceEmbedder, SFaceError

POINTS = {
    "astronaut": np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32),
    "hopper": np.array([[214, 249], [306, 245], [262, 301], [222, 352], [305, 349]], np.float32),
}
"""Five points on each face, counted from the corner of the first pixel."""


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory, save_embedder: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("sface") / "face_recognition_sface_2021dec.onnx"
    save_embedder(path, 128, 1)
    return path


@pytest.fixture(scope="module")
def embedder(onnx_path: Path) -> SFaceEmbedder:
    return SFaceEmbedder(onnx_path)


def test_equals_opencv_alignment_and_feature(
    embedder: SFaceEmbedder,
    onnx_path: Path,
    photos: dict[str, np.ndarray],
    embedder_weights: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> None:
    ours = embedder.embed([photos[name] for name in POINTS], list(POINTS.values()))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    recogniser = cv2.FaceRecognizerSF.create(str(onnx_path), "")
    matrix, shift = embedder_weights(128)
    features = []
    for name, points in POINTS.items():
        bgr = np.ascontiguousarray(photos[name][..., ::-1])
        row = np.concatenate([[0, 0, 1, 1], (points - 0.5).ravel(), [1]]).astype(np.float32)
        chip = recogniser.alignCrop(bgr, row)
        features.append(np.array(recogniser.feature(chip)))
        # The network's input is RGB in 0..255: the same in numpy.
        cells = chip[..., ::-1].astype(np.float64).reshape(7, 16, 7, 16, 3).mean(axis=(1, 3))
        straight = cells.transpose(2, 0, 1).reshape(-1) @ matrix + shift
        np.testing.assert_allclose(features[-1][0], straight, rtol=1e-4, atol=0.05)
        expected = straight / np.linalg.norm(straight)
        np.testing.assert_allclose(ours[len(features) - 1], expected, atol=1e-4)
    # What the threshold is for: OpenCV's own distance is the Euclidean distance of our embeddings.
    distance = recogniser.match(features[0], features[1], cv2.FACE_RECOGNIZER_SF_FR_NORM_L2)
    assert np.linalg.norm(ours[0] - ours[1]) == pytest.approx(distance, abs=1e-3)
    assert 1 < SFACE_SAME_PERSON_DISTANCE < np.sqrt(2)


def test_chips_in_a_batch_equal_chips_alone(embedder: SFaceEmbedder) -> None:
    chips = np.random.default_rng(1).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    together = embedder.embed_chips(chips)
    assert len(np.unique(together[:, 0])) == 4
    for chip, row in zip(chips, together, strict=True):
        np.testing.assert_allclose(embedder.embed_chips(chip[None])[0], row, atol=1e-5)
    assert embedder.embed([], []).shape == (0, 128)


def test_refusals(
    embedder: SFaceEmbedder, tmp_path: Path, onnx_path: Path, save_embedder: Callable[..., None]
) -> None:
    with pytest.raises(FileNotFoundError, match="no SFace network"):
        SFaceEmbedder(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match="CPU only"):
        SFaceEmbedder(onnx_path, "cuda")
    save_embedder(tmp_path / "arcface.onnx", 512, 1)
    with pytest.raises(SFaceError, match="gives 512 numbers"):
        SFaceEmbedder(tmp_path / "arcface.onnx")
    (tmp_path / "broken.onnx").write_bytes(onnx_path.read_bytes()[:1000])
    with pytest.raises(SFaceError, match="no network that OpenCV can run"):
        SFaceEmbedder(tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match="uint8 chips"):
        embedder.embed_chips(np.zeros((1, 100, 112, 3), np.uint8))
    with pytest.raises(ValueError, match="1 images but 0 sets"):
        embedder.embed([np.zeros((20, 20, 3), np.uint8)], [])
