"""The Inception-v3 of FID: pool3 features of the network of 2015-12-05, 2,048 numbers.

Szegedy et al., "Rethinking the Inception Architecture" (2015). FID was defined on TensorFlow's graph of that
date; `pt_inception-2015-12-05` is its conversion, under torchvision's tensor names. The graph differs from
Inception-v3 as published: averages at the border count only pixels of the picture, and the last block takes
a maximum where the paper averages. Other Inception weights give other numbers, which are not FID.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.weight_files import load_weights

FEATURES = 2048
INPUT_SIZE = 299
NORMALISATION_EPSILON = 1e-3
CLASSIFIER = "fc."
"""1,008 classes; features are taken before it, so its tensors are not read."""

Size = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, rectifier."""

    def __init__(self, taken: int, given: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(given, eps=NORMALISATION_EPSILON)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W'), 0 or more."""
        return functional.relu(self.bn(self.conv(x_BCHW)))


def _average(x_BCHW: Tensor) -> Tensor:
    return functional.avg_pool2d(x_BCHW, 3, stride=1, padding=1, count_include_pad=False)


def _widths(divisor: int) -> Callable[..., Convolution]:
    """Convolutions by the published numbers of channels, each over `divisor`."""

    def make(taken: int, given: int, kernel: Size, stride: int = 1, padding: Size = 0) -> Convolution:
        return Convolution(taken // divisor, given // divisor, kernel, stride, padding)

    return make


class Block35(nn.Module):
    """Mixed_5b to Mixed_5d: 1x1, 5x5, two 3x3, and a pooled branch of `pooled` channels."""

    def __init__(self, taken: int, pooled: int, divisor: int = 1) -> None:
        super().__init__()
        convolution = _widths(divisor)
        self.branch1x1 = convolution(taken, 64, 1)
        self.branch5x5_1 = convolution(taken, 48, 1)
        self.branch5x5_2 = convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = convolution(taken, 64, 1)
        self.branch3x3dbl_2 = convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = convolution(96, 96, 3, padding=1)
        self.branch_pool = convolution(taken, pooled, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x_BCHW))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x_BCHW)))
        return torch.cat([self.branch1x1(x_BCHW), five, three, self.branch_pool(_average(x_BCHW))], dim=1)


class Halving17(nn.Module):
    """Mixed_6a: from 35 to 17 px."""

    def __init__(self, taken: int, divisor: int = 1) -> None:
        super().__init__()
        convolution = _widths(divisor)
        self.branch3x3 = convolution(taken, 384, 3, stride=2)
        self.branch3x3dbl_1 = convolution(taken, 64, 1)
        self.branch3x3dbl_2 = convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = convolution(96, 96, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 480 + C, (H - 1) / 2, (W - 1) / 2)."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x_BCHW)))
        return torch.cat([self.branch3x3(x_BCHW), three, functional.max_pool2d(x_BCHW, 3, stride=2)], dim=1)


class Block17(nn.Module):
    """Mixed_6b to Mixed_6e: 7x7 as 1x7 and 7x1, once and twice, with `inner` channels inside."""

    def __init__(self, taken: int, inner: int, divisor: int = 1) -> None:
        super().__init__()
        convolution = _widths(divisor)
        wide, tall = (1, 7), (7, 1)
        across, down = (0, 3), (3, 0)
        self.branch1x1 = convolution(taken, 192, 1)
        self.branch7x7_1 = convolution(taken, inner, 1)
        self.branch7x7_2 = convolution(inner, inner, wide, padding=across)
        self.branch7x7_3 = convolution(inner, 192, tall, padding=down)
        self.branch7x7dbl_1 = convolution(taken, inner, 1)
        self.branch7x7dbl_2 = convolution(inner, inner, tall, padding=down)
        self.branch7x7dbl_3 = convolution(inner, inner, wide, padding=across)
        self.branch7x7dbl_4 = convolution(inner, inner, tall, padding=down)
        self.branch7x7dbl_5 = convolution(inner, 192, wide, padding=across)
        self.branch_pool = convolution(taken, 192, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 768, H, W)."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x_BCHW)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x_BCHW)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x_BCHW), once, twice, self.branch_pool(_average(x_BCHW))], dim=1)


class Halving8(nn.Module):
    """Mixed_7a: from 17 to 8 px."""

    def __init__(self, taken: int, divisor: int = 1) -> None:
        super().__init__()
        convolution = _widths(divisor)
        self.branch3x3_1 = convolution(taken, 192, 1)
        self.branch3x3_2 = convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = convolution(taken, 192, 1)
        self.branch7x7x3_2 = convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = convolution(192, 192, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 512 + C, (H - 1) / 2, (W - 1) / 2)."""
        three = self.branch3x3_2(self.branch3x3_1(x_BCHW))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x_BCHW)))
        pooled = functional.max_pool2d(x_BCHW, 3, stride=2)
        return torch.cat([three, self.branch7x7x3_4(seven), pooled], dim=1)


class Block8(nn.Module):
    """Mixed_7b and Mixed_7c: 3x3 as 1x3 beside 3x1. The last one pools by the maximum."""

    def __init__(self, taken: int, divisor: int = 1, *, maximum: bool) -> None:
        super().__init__()
        convolution = _widths(divisor)
        wide, tall = (1, 3), (3, 1)
        across, down = (0, 1), (1, 0)
        self.maximum = maximum
        self.branch1x1 = convolution(taken, 320, 1)
        self.branch3x3_1 = convolution(taken, 384, 1)
        self.branch3x3_2a = convolution(384, 384, wide, padding=across)
        self.branch3x3_2b = convolution(384, 384, tall, padding=down)
        self.branch3x3dbl_1 = convolution(taken, 448, 1)
        self.branch3x3dbl_2 = convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = convolution(384, 384, wide, padding=across)
        self.branch3x3dbl_3b = convolution(384, 384, tall, padding=down)
        self.branch_pool = convolution(taken, 192, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2048, H, W)."""
        once = self.branch3x3_1(x_BCHW)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x_BCHW))
        pooled = functional.max_pool2d(x_BCHW, 3, 1, 1) if self.maximum else _average(x_BCHW)
        parts = [self.branch1x1(x_BCHW), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled)]
        return torch.cat(parts, dim=1)


class FidInception(nn.Module):
    """Pictures to pool3 features, under the published tensor names.

    `divisor` divides all widths, 1 is the published network; it divides 16.
    """

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()
        convolution = _widths(divisor)
        self.Conv2d_1a_3x3 = Convolution(3, 32 // divisor, 3, stride=2)
        self.Conv2d_2a_3x3 = convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = convolution(80, 192, 3)
        self.Mixed_5b = Block35(192, 32, divisor)
        self.Mixed_5c = Block35(256, 64, divisor)
        self.Mixed_5d = Block35(288, 64, divisor)
        self.Mixed_6a = Halving17(288, divisor)
        self.Mixed_6b = Block17(768, 128, divisor)
        self.Mixed_6c = Block17(768, 160, divisor)
        self.Mixed_6d = Block17(768, 160, divisor)
        self.Mixed_6e = Block17(768, 192, divisor)
        self.Mixed_7a = Halving8(768, divisor)
        self.Mixed_7b = Block8(1280, divisor, maximum=False)
        self.Mixed_7c = Block8(2048, divisor, maximum=True)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Features of pictures.

        Args:
            x_B3HW: (B, 3, H, W) RGB in 0..1, of any size. They are brought to 299 x 299 px by plain bilinear
                interpolation, without smoothing, because published values were made so.

        Returns:
            (B, 2048 / divisor), 0 or more.

        Raises:
            ValueError: another shape.
        """
        if x_B3HW.ndim != 4 or x_B3HW.shape[1] != 3:
            raise ValueError(f"expected pictures (B, 3, H, W), got {tuple(x_B3HW.shape)}")
        x = functional.interpolate(x_B3HW, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x * 2 - 1)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))


def load_fid_inception(path: str | Path, divisor: int = 1) -> FidInception:
    """Read `pt_inception-2015-12-05`, frozen and in evaluation mode, on the CPU; its classifier is ignored.

    `divisor` is of the file's network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = FidInception(divisor)
    load_weights(network, path, lambda name: None if name.startswith(CLASSIFIER) else name)
    return network
