"""dlib's face recognition network (29 convolutions with residual shortcuts, 128 outputs) as a torch module.

The weights are read straight from dlib's serialised `.dat`; dlib itself is not needed. Source of the
architecture: dlib, example `dnn_face_recognition_ex`; of the weights:
`dlib_face_recognition_resnet_model_v1.dat` (Davis King, public domain, CC0).
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from models.faces.alignment import DLIB_CHIP_SIZE
from models.identity.embedding import EMBEDDING_SIZE

INPUT_MEAN = (122.782, 117.001, 104.298)
"""Mean RGB that is subtracted before the division by 256 (dlib, `input_rgb_image_sized`)."""

STEM_CHANNELS = 32
STEM_KERNEL = 7
BLOCK_KERNEL = 3


@dataclass(frozen=True)
class BlockPlan:
    """One residual block: channels in and out, and whether it halves the resolution."""

    channels_in: int
    channels_out: int
    downsamples: bool


def _plan() -> tuple[BlockPlan, ...]:
    """The 14 residual blocks, from the image on. Levels are (channels, first block halves, block count)."""
    blocks, channels = [], STEM_CHANNELS
    levels = ((32, False, 3), (64, True, 4), (128, True, 3), (256, True, 3), (256, True, 1))
    for width, first_halves, count in levels:
        for index in range(count):
            blocks.append(BlockPlan(channels, width, first_halves and index == 0))
            channels = width
    return tuple(blocks)


BLOCKS = _plan()
LAYER_COUNT = 1 + 2 * len(BLOCKS)
TENSOR_COUNT = 2 * LAYER_COUNT + 1
"""59: convolution and affine parameters of 29 layers, and the final matrix."""


class DatError(ValueError):
    """The file is not the network this module knows."""


def _integer(value: int) -> bytes:
    """dlib's portable integer: a byte with the number of bytes, then the value, little-endian."""
    length = max(1, (value.bit_length() + 7) // 8)
    return bytes([length]) + value.to_bytes(length, "little")


def _name(tag: str) -> bytes:
    """A layer's name as dlib writes it: its length, then its letters."""
    return _integer(len(tag)) + tag.encode()


class _DatReader:
    """Walks a serialised network from the image on, layer after layer."""

    def __init__(self, path: Path) -> None:
        self.data, self.path, self.position, self.count = path.read_bytes(), path, 0, 0
        expected = {"loss_metric_2": 1, "con_4": LAYER_COUNT, "affine_": LAYER_COUNT, "fc_2": 1}
        found = {tag: self.data.count(_name(tag)) for tag in expected}
        if found != expected:
            raise DatError(
                f"{path} is not dlib_face_recognition_resnet_model_v1.dat: "
                f"expected layers {expected}, found {found}"
            )

    def take(self, tag: str, shape: tuple[int, ...], sizes: tuple[int, ...] = ()) -> NDArray[np.float32]:
        """The next layer's parameters in `shape`; the layer must have this name, shape and own sizes.

        Before the values stand the layer's name, its own sizes, the version of the tensor format (2) and
        the tensor's four sides.
        """
        number = self.count + 1
        sides = shape + (1,) * (4 - len(shape))
        header = _name(tag) + b"".join(_integer(value) for value in (*sizes, 2, *sides))
        start = self.data.find(_name(tag), self.position)
        if start < 0 or not self.data.startswith(header, start):
            raise DatError(
                f"{self.path}: tensor {number} of {TENSOR_COUNT} is not a {tag} of shape {shape}; "
                "is it another version of the network?"
            )
        begin, size = start + len(header), prod(shape)
        if begin + 4 * size > len(self.data):
            raise DatError(
                f"{self.path} ends inside tensor {number} of {TENSOR_COUNT}: "
                "the file is truncated, fetch it again"
            )
        values = np.frombuffer(self.data, "<f4", size, begin)
        if not np.isfinite(values).all():
            raise DatError(
                f"{self.path}: tensor {number} of {TENSOR_COUNT} holds a value that is not finite: "
                "the file is damaged, fetch it again"
            )
        self.position, self.count = begin + 4 * size, number
        return values.astype(np.float32).reshape(shape)


class ConvolutionAffine(nn.Module):
    """A convolution followed by a scale and a shift per channel (dlib's frozen batch normalisation)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        # dlib pads strided convolutions not at all, and the others so that they keep the size.
        padding = 0 if stride == 2 else kernel // 2
        self.convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)
        self.scale = nn.Parameter(torch.ones(channels_out))
        self.shift = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return self.convolution(x_BCHW) * self.scale[:, None, None] + self.shift[:, None, None]

    def read(self, reader: _DatReader) -> None:
        """Take this layer's parameters from the file: filters and biases, then scales and shifts."""
        weight, channels = self.convolution.weight, len(self.scale)
        filters = weight.numel()
        values = torch.from_numpy(reader.take("con_4", (filters + channels,)))
        affine = torch.from_numpy(reader.take("affine_", (2 * channels,)))
        self.convolution.weight = nn.Parameter(values[:filters].reshape(weight.shape))
        self.convolution.bias = nn.Parameter(values[filters:].clone())
        self.scale = nn.Parameter(affine[:channels].clone())
        self.shift = nn.Parameter(affine[channels:].clone())


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut; a halving block averages its shortcut instead of projecting it."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.downsamples = plan.downsamples
        stride = 2 if plan.downsamples else 1
        self.first = ConvolutionAffine(plan.channels_in, plan.channels_out, BLOCK_KERNEL, stride)
        self.second = ConvolutionAffine(plan.channels_out, plan.channels_out, BLOCK_KERNEL, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        branch = self.second(functional.relu(self.first(x_BCHW)))
        shortcut = functional.avg_pool2d(x_BCHW, 2, 2) if self.downsamples else x_BCHW
        # dlib adds tensors of unequal size as if the smaller one went on with zeros.
        channels, height, width = (
            max(branch.shape[axis], shortcut.shape[axis]) for axis in range(1, branch.ndim)
        )
        return functional.relu(
            _grow(branch, channels, height, width) + _grow(shortcut, channels, height, width)
        )


def _grow(x_BCHW: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Append zeros below, to the right and as further channels."""
    missing = (0, width - x_BCHW.shape[3], 0, height - x_BCHW.shape[2], 0, channels - x_BCHW.shape[1])
    return functional.pad(x_BCHW, missing) if any(missing) else x_BCHW


class DlibFaceNet(nn.Module):
    """The network; freshly made it holds random weights, `load_dlib_resnet` fills in dlib's."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvolutionAffine(3, STEM_CHANNELS, STEM_KERNEL, 2)
        self.blocks = nn.ModuleList(ResidualBlock(plan) for plan in BLOCKS)
        self.head = nn.Parameter(torch.randn(BLOCKS[-1].channels_out, EMBEDDING_SIZE) * 0.05)
        self.register_buffer("mean", torch.tensor(INPUT_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Embed aligned face chips; differentiable.

        Args:
            x_B3HW: (B, 3, 150, 150) float RGB in 0..255, aligned to dlib's five points.

        Returns:
            (B, 128), not normalised. A Euclidean distance below 0.6 means the same person (dlib's threshold).

        Raises:
            ValueError: another shape.
        """
        if x_B3HW.ndim != 4 or tuple(x_B3HW.shape[1:]) != (3, DLIB_CHIP_SIZE, DLIB_CHIP_SIZE):
            raise ValueError(
                f"expected chips (B, 3, {DLIB_CHIP_SIZE}, {DLIB_CHIP_SIZE}), got {tuple(x_B3HW.shape)}"
            )
        x = functional.relu(self.stem((x_B3HW - self.mean) / 256.0))
        x = functional.max_pool2d(x, 3, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3)) @ self.head


def load_dlib_resnet(dat_path: str | Path) -> DlibFaceNet:
    """Read dlib's `.dat` into a frozen network in evaluation mode.

    Every one of the 59 tensors must stand under its layer's name, in order, with its exact shape.

    Raises:
        FileNotFoundError: there is no such file.
        DatError: the file is something else, is truncated, or holds values that are not finite.
    """
    path = Path(dat_path)
    if not path.is_file():
        raise FileNotFoundError(f"no dlib face recognition network at {path}")
    reader = _DatReader(path)
    network = DlibFaceNet()
    network.stem.read(reader)
    for block in network.blocks:
        assert isinstance(block, ResidualBlock)
        block.first.read(reader)
        block.second.read(reader)
    inputs, outputs = network.head.shape
    network.head = nn.Parameter(torch.from_numpy(reader.take("fc_2", (inputs, outputs), (outputs, inputs))))
    return network.eval().requires_grad_(False)
