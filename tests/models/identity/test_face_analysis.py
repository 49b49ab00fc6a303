"""insightface's own classes on small networks of the published layouts: faces, devices, folders, refusals."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from skimage.transform import SimilarityTransform

from models.identity.arcface_alignment import arcface_chip
from models.identity.face_analysis import (
    FaceAnalysisError,
    LocalFaceAnalysis,
    execution_providers,
    find_pack,
)

BOX = np.array([122, 58, 210, 178], np.float32)
POINTS = np.array([[143, 102], [187, 105], [163, 125], [143, 142], [181, 144]], np.float32)
"""Where the portrait's face is, counted from pixel centres."""

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@pytest.fixture(scope="module")
def analysis(antelope_folder: Path) -> LocalFaceAnalysis:
    return LocalFaceAnalysis(antelope_folder, threads=1)


def straight_line_embedding(
    photo: np.ndarray, points: np.ndarray, weights: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """What the small embedder must give: align with scikit-image, cut with OpenCV, the rest in numpy."""
    matrix = SimilarityTransform.from_estimate(points, TEMPLATE).params[:2]
    chip = (cv2.warpAffine(photo, matrix, (112, 112)).astype(np.float64) - 127.5) / 127.5
    cells = chip.reshape(7, 16, 7, 16, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    return cells.reshape(-1) @ weights[0] + weights[1]


def test_finds_both_faces_where_they_are_largest_first(
    analysis: LocalFaceAnalysis, group_photo: np.ndarray
) -> None:
    large, small = analysis.analyse(group_photo)
    np.testing.assert_allclose(large.box_4, BOX + 0.5, atol=1e-3)
    np.testing.assert_allclose(large.points_52, POINTS + 0.5, atol=1e-3)
    np.testing.assert_allclose(small.box_4, BOX / 2 + 400.5, atol=1e-3)
    np.testing.assert_allclose(small.points_52, POINTS / 2 + 400.5, atol=1e-3)
    assert large.score > 0.9
    assert small.score > 0.9


def test_the_other_portrait_is_found_too(hopper_scene: Any) -> None:
    found = LocalFaceAnalysis(hopper_scene.folder).analyse(hopper_scene.image)
    assert len(found) == 1
    np.testing.assert_allclose(found[0].box_4, hopper_scene.box_4 + 0.5, atol=1e-3)
    np.testing.assert_allclose(found[0].points_52, hopper_scene.points_52 + 0.5, atol=1e-3)
    assert found[0].score > 0.9
    assert np.isfinite(found[0].embedding_D).all()


def test_detection_follows_the_picture(analysis: LocalFaceAnalysis, group_photo: np.ndarray) -> None:
    moved = analysis.analyse(np.roll(group_photo, (64, 32), axis=(0, 1)))[0]
    np.testing.assert_allclose(moved.points_52, POINTS + 0.5 + (32, 64), atol=1e-3)
    # Twice as large: reduced to 640 for detection, and mapped back.
    enlarged = analysis.analyse(group_photo.repeat(2, axis=0).repeat(2, axis=1))[0]
    np.testing.assert_allclose(enlarged.points_52, 2 * POINTS + 0.5, atol=1e-3)
    for found, embedded in zip(analysis.detect(group_photo), analysis.analyse(group_photo), strict=True):
        np.testing.assert_array_equal(found.box_4, embedded.box_4)
        np.testing.assert_array_equal(found.points_52, embedded.points_52)
        assert found.score == embedded.score
    upside_down = np.ascontiguousarray(group_photo[::-1])
    assert analysis.detect(upside_down) == []
    assert analysis.analyse(upside_down) == []


def test_embedding_is_the_aligned_chip_through_the_network(
    analysis: LocalFaceAnalysis,
    group_photo: np.ndarray,
    embedder_weights: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> None:
    for face, points in zip(analysis.analyse(group_photo), (POINTS, POINTS / 2 + 400), strict=True):
        expected = straight_line_embedding(group_photo, points, embedder_weights(512))
        assert face.embedding_D.shape == (512,)
        # Numbers of about 10; a pixel that rounds the other way moves them by 1e-4.
        np.testing.assert_allclose(face.embedding_D, expected, atol=1e-3)
        assert abs(np.linalg.norm(face.embedding_D) - 1) > 1  # raw, as PuLID takes it
        ours = analysis.embed_chips(arcface_chip(group_photo, face.points_52)[None])[0]
        np.testing.assert_allclose(ours, face.embedding_D, atol=1e-3)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_chips_in_a_batch_equal_chips_alone(
    antelope_folder: Path, tmp_path: Path, save_embedder: Callable[..., None], batch: int | str
) -> None:
    shutil.copy(antelope_folder / "scrfd_10g_bnkps.onnx", tmp_path)
    save_embedder(tmp_path / "glintr100.onnx", 512, batch)
    analysis = LocalFaceAnalysis(tmp_path, threads=1)
    chips = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    together = analysis.embed_chips(chips)
    alone = np.concatenate([analysis.embed_chips(chip[None]) for chip in chips])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert analysis.embed_chips(chips[:0]).shape == (0, 512)
    with pytest.raises(ValueError, match="uint8 chips"):
        analysis.embed_chips(chips[:, :100])


def test_every_known_folder_layout_is_found(
    antelope_folder: Path, tmp_path: Path, group_photo: np.ndarray
) -> None:
    for number, inner in enumerate(("", "antelopev2", "models/antelopev2", "models/antelopev2/antelopev2")):
        folder = tmp_path / str(number)
        shutil.copytree(antelope_folder, folder / inner)
        assert find_pack(folder) == (folder / inner).resolve()
    # As in a hub's cache: links by their names to files that are called by their digest.
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        shutil.copy(antelope_folder / name, tmp_path / f"blob_{len(name)}")
        (linked / name).symlink_to(tmp_path / f"blob_{len(name)}")
    assert find_pack(linked / "glintr100.onnx") == linked.resolve()
    assert LocalFaceAnalysis(linked / "glintr100.onnx", threads=1).analyse(group_photo)


def test_missing_files_are_an_error_and_never_a_download(
    antelope_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_photo: np.ndarray
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    shutil.copy(antelope_folder / "glintr100.onnx", tmp_path)
    for folder in (tmp_path, tmp_path / "absent", "antelopev2"):
        with pytest.raises(FileNotFoundError, match=r"scrfd_10g_bnkps\.onnx and glintr100\.onnx"):
            LocalFaceAnalysis(folder)
    assert LocalFaceAnalysis(antelope_folder, threads=1).analyse(group_photo)


def test_other_networks_in_the_folder_are_refused(
    antelope_folder: Path, tmp_path: Path, save_embedder: Callable[..., None]
) -> None:
    another = tmp_path / "another"
    shutil.copytree(antelope_folder, another)
    save_embedder(another / "a_first_by_name.onnx", 512)
    with pytest.raises(FaceAnalysisError, match=r"a_first_by_name\.onnx for recognition, not glintr100"):
        LocalFaceAnalysis(another)
    narrow = tmp_path / "narrow"
    shutil.copytree(antelope_folder, narrow)
    save_embedder(narrow / "glintr100.onnx", 256)
    with pytest.raises(FaceAnalysisError, match=r"256\], not 512 numbers"):
        LocalFaceAnalysis(narrow)
    swapped = tmp_path / "swapped"
    shutil.copytree(antelope_folder, swapped)
    shutil.copy(antelope_folder / "glintr100.onnx", swapped / "scrfd_10g_bnkps.onnx")
    with pytest.raises(FaceAnalysisError, match=r"no detector in .*swapped"):
        LocalFaceAnalysis(swapped)


def test_devices_are_explicit_and_never_fall_back(
    antelope_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert execution_providers("cpu") == ["CPUExecutionProvider"]
    with pytest.raises(FaceAnalysisError, match="not on 'tpu:0'"):
        execution_providers("tpu:0")
    for device, provider in (("mps", "CoreML"), ("xpu:1", "OpenVINO"), ("cuda:1", "ROCM")):
        names = [f"{provider}ExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda names=names: names)
        options = {"device_id": 1} if device == "cuda:1" else {}
        assert execution_providers(device) == [(names[0], options), names[1]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(FaceAnalysisError, match="has only CPUExecutionProvider"):
        LocalFaceAnalysis(antelope_folder, "cuda:1")
    # A build that promises CUDA and cannot load its libraries: onnxruntime itself only warns.
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    assert execution_providers("cuda:1") == [("CUDAExecutionProvider", {"device_id": 1}), both[1]]
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(FaceAnalysisError, match="fell back to CPUExecutionProvider"),
    ):
        LocalFaceAnalysis(antelope_folder, "cuda:1")
