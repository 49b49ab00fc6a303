"""dlib's network: the file is read exactly, and the numbers are dlib's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.identity.dlib_resnet import DatError, DlibFaceNet, load_dlib_resnet

DLIB_ON_GRADIENT = (-0.050978, 0.120987, 0.060109, 0.014236, -0.055703, -0.046085, -0.077943, -0.007109)
DLIB_ON_ASTRONAUT = (-0.055008, 0.065346, 0.007126, 0.013063, -0.172184, -0.009020, -0.004979, -0.167271)
"""First values of dlib 20.0.1's own `compute_face_descriptor` on the two chips below."""


def gradient_chip() -> np.ndarray:
    y, x = np.mgrid[:150, :150]
    return np.stack([x * 255 // 149, y * 255 // 149, (x + y) * 255 // 298], axis=-1).astype(np.uint8)


def as_batch(*chips_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(chips_HW3)).permute(0, 3, 1, 2).float()


class NumpyDlib:
    """The network once more, in plain numpy and with a parser of its own: one chip in, 128 numbers out."""

    def __init__(self, data: bytes) -> None:
        # A tensor: version 2 as (1, 2), four sides as (byte count, value), then float32.
        self.tensors = []
        for tag in re.finditer(rb"\x05con_4|\x07affine_|\x04fc_2\x01\x80\x02\x00\x01", data):
            position, sides = tag.end() + 2, []
            assert data[tag.end() : position] == b"\x01\x02"
            for _ in range(4):
                length = data[position]
                sides.append(int.from_bytes(data[position + 1 : position + 1 + length], "little"))
                position += 1 + length
            self.tensors.append(np.frombuffer(data, "<f4", int(np.prod(sides)), position).astype(np.float64))
        self.next = 0

    def layer(self, x_CHW: np.ndarray, filters: int, kernel: int, stride: int, pad: int) -> np.ndarray:
        parameters, affine = self.tensors[self.next : self.next + 2]
        self.next += 2
        weights = parameters[:-filters].reshape(filters, len(x_CHW), kernel, kernel)
        padded = np.pad(x_CHW, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
        out = np.einsum("fcij,chwij->fhw", weights, windows[:, ::stride, ::stride], optimize=True)
        out += parameters[-filters:, None, None]
        return out * affine[:filters, None, None] + affine[filters:, None, None]

    def __call__(self, chip_HW3: np.ndarray) -> np.ndarray:
        self.next = 0
        x = (chip_HW3.transpose(2, 0, 1) - np.array([122.782, 117.001, 104.298])[:, None, None]) / 256
        x = self.layer(x, 32, 7, 2, 0).clip(min=0)
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
        for filters, halves in [
            *[(32, False)] * 3,
            *[(64, True), *[(64, False)] * 3],
            *[(128, True), *[(128, False)] * 2],
            *[(256, True), *[(256, False)] * 2],
            (256, True),
        ]:
            branch = self.layer(x, filters, 3, 2 if halves else 1, 0 if halves else 1).clip(min=0)
            branch = self.layer(branch, filters, 3, 1, 1)
            if halves:
                even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
                x = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
            total = np.zeros(np.maximum(branch.shape, x.shape))
            for part in (branch, x):
                total[: part.shape[0], : part.shape[1], : part.shape[2]] += part
            x = total.clip(min=0)
        return x.mean(axis=(1, 2)) @ self.tensors[-1].reshape(256, 128)


@pytest.mark.parametrize("picture", ["gradient", "astronaut"])
def test_numbers_are_those_of_dlib_itself(
    network: DlibFaceNet, photos: dict[str, np.ndarray], picture: str
) -> None:
    crop = photos["astronaut"][50:200, 150:300]
    chip, expected = {
        "gradient": (gradient_chip(), DLIB_ON_GRADIENT),
        "astronaut": (crop, DLIB_ON_ASTRONAUT),
    }[picture]
    np.testing.assert_allclose(network(as_batch(chip))[0, :8].numpy(), expected, atol=2e-6)


def test_all_128_numbers_agree_with_plain_numpy(
    network: DlibFaceNet, dat_path: Path, photos: dict[str, np.ndarray]
) -> None:
    reference = NumpyDlib(dat_path.read_bytes())
    assert len(reference.tensors) == 59
    chip = photos["hopper"][100:250, 180:330]
    np.testing.assert_allclose(network(as_batch(chip))[0].numpy(), reference(chip), atol=2e-6)


def test_every_number_of_the_file_is_in_the_module(network: DlibFaceNet, dat_path: Path) -> None:
    stored = sum(tensor.size for tensor in NumpyDlib(dat_path.read_bytes()).tensors)
    assert sum(parameter.numel() for parameter in network.parameters()) == stored
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_a_chip_does_not_depend_on_its_neighbours_in_the_batch(network: DlibFaceNet) -> None:
    chip, noise = gradient_chip(), np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    together = network(as_batch(noise, chip, noise))[1]
    torch.testing.assert_close(together, network(as_batch(chip))[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3, 150, 150), (1, 150, 150, 3), (1, 3, 112, 112), (2, 1, 150, 150)])
def test_other_shapes_are_refused(network: DlibFaceNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape("(B, 3, 150, 150)")):
        network(torch.zeros(shape))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.dat"):
        load_dlib_resnet(tmp_path / "gone.dat")


@pytest.mark.parametrize("name", ["mmod_human_face_detector.dat", "shape_predictor_5_face_landmarks.dat"])
def test_other_dlib_models_are_refused(dat_path: Path, name: str) -> None:
    with pytest.raises(DatError, match=f"{name} is not dlib_face_recognition"):
        load_dlib_resnet(dat_path.with_name(name))


def test_damaged_files_are_refused(dat_path: Path, tmp_path: Path) -> None:
    data = dat_path.read_bytes()
    last = data.index(b"\x04fc_2")
    middle = [found.start() for found in re.finditer(rb"\x05con_4", data)][14]
    # name 6 bytes, version 2, count 36,928 3, three sides 6: then the values
    values = middle + 17
    renamed_side = data[: middle + 10] + bytes([data[middle + 10] ^ 1]) + data[middle + 11 :]
    not_finite = data[:values] + np.full(100, np.nan, "<f4").tobytes() + data[values + 400 :]
    for content, message in [
        (b"", "is not dlib_face_recognition"),
        (data[: len(data) // 2], "is not dlib_face_recognition"),
        (data[: last + 1000], "tensor 59 of 59: the file is truncated"),
        (renamed_side, "tensor 29 of 59 is not a con_4"),
        (not_finite, "tensor 29 of 59 holds a value that is not finite"),
    ]:
        path = tmp_path / "damaged.dat"
        path.write_bytes(content)
        with pytest.raises(DatError, match=message):
            load_dlib_resnet(path)
