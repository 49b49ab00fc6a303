"""Residual networks as feature extractors, with the tensor names under which they are published.

He et al., "Deep Residual Learning for Image Recognition" (2015), with the stride of a bottleneck on its 3x3
convolution (the variant that is published as ImageNet weights). Variant "C" (He et al., "Bag of Tricks",
2018) replaces the 7x7 stem by three 3x3 convolutions; dilated stages keep the resolution instead of halving
it (Chen et al., "Rethinking Atrous Convolution", 2017).
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from models.faces.network_sizes import ResNetConfig


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation=dilation, bias=False)


class _Shortcut(nn.Sequential):
    """1x1 convolution and normalisation for blocks that change the number of channels or the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(_convolution(channels_in, channels_out, 1, stride, 1), nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels_in, width, 3, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or channels_in != width
        self.downsample = _Shortcut(channels_in, width, stride) if changes else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, width, H / stride, W / stride)."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x = functional.relu(self.bn1(self.conv1(x_BCHW)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut around them."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = _convolution(channels_in, width, 1, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, channels_out, 1, 1, 1)
        self.bn3 = nn.BatchNorm2d(channels_out)
        changes = stride != 1 or channels_in != channels_out
        self.downsample = _Shortcut(channels_in, channels_out, stride) if changes else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, 4 width, H / stride, W / stride)."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x = functional.relu(self.bn1(self.conv1(x_BCHW)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


def _deep_stem(width: int) -> nn.Sequential:
    half = width // 2
    layers: list[nn.Module] = []
    for channels_in, channels_out, stride in ((3, half, 2), (half, half, 1), (half, width, 1)):
        layers += [
            _convolution(channels_in, channels_out, 3, stride, 1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """The network without its classifier: an image to the feature maps of the four stages.

    Tensor names: `conv1`, `bn1` (or `stem.{0,1,3,4,6,7}`), and
    `layer{1..4}.{block}.{conv1,bn1,conv2,bn2,conv3,bn3,downsample.0,downsample.1}`.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        if config.deep_stem:
            self.stem = _deep_stem(config.width)
        else:
            self.conv1 = _convolution(3, config.width, 7, 2, 1)
            self.bn1 = nn.BatchNorm2d(config.width)
        stages, channels = [], config.width
        for index in range(4):
            stages.append(self._stage(channels, index))
            channels = config.channels[index]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def _stage(self, channels_in: int, index: int) -> nn.Sequential:
        block = BasicBlock if self.config.block == "basic" else Bottleneck
        width, dilation = self.config.width * 2**index, self.config.dilations[index]
        blocks = [block(channels_in, width, self.config.strides[index], max(1, dilation // 2))]
        for _ in range(1, self.config.depths[index]):
            blocks.append(block(width * block.expansion, width, 1, dilation))
        return nn.Sequential(*blocks)

    def forward(self, x_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of a batch of images.

        Args:
            x_B3HW: (B, 3, H, W), normalised as the weights expect it.

        Returns:
            four maps with `config.channels` channels; a quarter of the resolution and, with the usual
            strides, an eighth, a sixteenth and a thirty-second.
        """
        x = self.stem(x_B3HW) if self.config.deep_stem else functional.relu(self.bn1(self.conv1(x_B3HW)))
        first = self.layer1(functional.max_pool2d(x, 3, 2, 1))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)
