"""BiSeNet, the parser of faces into 19 classes that DiffFace and APPLE use.

Yu et al., "BiSeNet: Bilateral Segmentation Network" (2018), in the form published for CelebAMask-HQ: the
spatial path is replaced by the ResNet-18's features at an eighth of the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from models.faces.constants import CLASS_NAMES
from models.faces.images import Image
from models.faces.network_inputs import device_of, image_batch, imagenet_normalised
from models.faces.network_sizes import BiSeNetConfig, ResNetConfig
from models.faces.resnet import ResNet
from models.weight_files import KeyAdapter, load_weights

PARSER_SIZE = 512
"""Side of the network's input in pixels."""


class ConvolutionUnit(nn.Module):
    """Convolution, normalisation, rectifier."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return functional.relu(self.bn(self.conv(x_BCHW)))


class AttentionRefinement(nn.Module):
    """Channels of a feature map weighted by its mean (attention refinement module of the paper)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ConvolutionUnit(channels_in, channels_out, 3)
        self.conv_atten = nn.Conv2d(channels_out, channels_out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(channels_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.conv(x_BCHW)
        weights = self.bn_atten(self.conv_atten(x.mean(dim=(2, 3), keepdim=True)))
        return x * torch.sigmoid(weights)


class ContextPath(nn.Module):
    """ResNet-18 features, with those of low resolution refined and brought up to an eighth."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        _, eighth, sixteenth, thirty_second = config.channels
        self.resnet = ResNet(config)
        self.arm16 = AttentionRefinement(sixteenth, eighth)
        self.arm32 = AttentionRefinement(thirty_second, eighth)
        self.conv_head32 = ConvolutionUnit(eighth, eighth, 3)
        self.conv_head16 = ConvolutionUnit(eighth, eighth, 3)
        self.conv_avg = ConvolutionUnit(thirty_second, eighth, 1)

    def forward(self, x_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Spatial and context features, both (B, C, H / 8, W / 8)."""
        _, eighth, sixteenth, thirty_second = self.resnet(x_B3HW)
        context = self.conv_avg(thirty_second.mean(dim=(2, 3), keepdim=True))
        x = self.arm32(thirty_second) + context
        x = self.conv_head32(functional.interpolate(x, sixteenth.shape[2:], mode="nearest"))
        x = self.arm16(sixteenth) + x
        return eighth, self.conv_head16(functional.interpolate(x, eighth.shape[2:], mode="nearest"))


class FeatureFusion(nn.Module):
    """Spatial and context features joined (feature fusion module of the paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvolutionUnit(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, spatial_BCHW: Tensor, context_BCHW: Tensor) -> Tensor:
        """Two maps (B, C / 2, H, W) -> (B, C, H, W)."""
        x = self.convblk(torch.cat([spatial_BCHW, context_BCHW], dim=1))
        weights = self.conv2(functional.relu(self.conv1(x.mean(dim=(2, 3), keepdim=True))))
        return x + x * torch.sigmoid(weights)


class ClassHead(nn.Module):
    """Features to one map per class."""

    def __init__(self, channels_in: int, channels_inside: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvolutionUnit(channels_in, channels_inside, 3)
        self.conv_out = nn.Conv2d(channels_inside, classes, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes, H, W)."""
        return self.conv_out(self.conv(x_BCHW))


class BiSeNet(nn.Module):
    """The network under its published tensor names (`cp.*`, `ffm.*`, `conv_out*.*`).

    `conv_out16` and `conv_out32` are heads of deep supervision: they are in the published files, and only
    training would use them.
    """

    def __init__(self, config: BiSeNetConfig | None = None) -> None:
        super().__init__()
        config = BiSeNetConfig() if config is None else config
        inside, context = config.backbone.width, config.backbone.channels[1]
        self.cp = ContextPath(config.backbone)
        self.ffm = FeatureFusion(2 * context)
        self.conv_out = ClassHead(2 * context, 2 * context, config.classes)
        self.conv_out16 = ClassHead(context, inside, config.classes)
        self.conv_out32 = ClassHead(context, inside, config.classes)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Logits of every pixel; differentiable.

        Args:
            x_B3HW: (B, 3, H, W), from `parser_input`; sides in multiples of 32.

        Returns:
            (B, classes, H, W), resized bilinearly from an eighth of the resolution.
        """
        logits = self.conv_out(self.ffm(*self.cp(x_B3HW)))
        return functional.interpolate(logits, x_B3HW.shape[2:], mode="bilinear", align_corners=True)


def parser_input(x_B3HW: Tensor, *, double_normalisation: bool) -> Tensor:
    """RGB in 0..1 as BiSeNet takes it; differentiable.

    Args:
        x_B3HW: (B, 3, H, W) in 0..1.
        double_normalisation: DiffFace, and APPLE after it, normalise by ImageNet's mean and deviation and
            then once more by (x - 0.5) / 0.5. True repeats that. False normalises once, as the published
            weights were trained.
    """
    x = imagenet_normalised(x_B3HW)
    return (x - 0.5) / 0.5 if double_normalisation else x


def load_bisenet(
    path: str | Path, adapter: KeyAdapter | None = None, config: BiSeNetConfig | None = None
) -> BiSeNet:
    """Read the published network, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of `FaceParser.pth` (= `79999_iter.pth` =
            `parsing_bisenet.pth`).
        adapter: renames the file's tensors, for other layouts.
        config: shape of the network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = BiSeNet(config)
    load_weights(network, path, adapter)
    return network


class FaceParser:
    """Photographs to class codes; runs where the network is.

    Args:
        network: with the 19 classes of `constants.CLASS_NAMES`, whose order is the network's own: its
            outputs are the codes that are stored.
        double_normalisation: see `parser_input`.

    Raises:
        ValueError: a network with other classes.
    """

    def __init__(self, network: BiSeNet, *, double_normalisation: bool) -> None:
        classes = network.conv_out.conv_out.out_channels
        if classes != len(CLASS_NAMES):
            raise ValueError(f"a parser of faces tells {len(CLASS_NAMES)} classes apart, this one {classes}")
        self._network = network.eval()
        self._device = device_of(network)
        self._double_normalisation = double_normalisation

    def parse(self, images: Sequence[Image]) -> list[NDArray[np.uint8]]:
        """Class codes of every pixel, uint8 (H, W) for each photograph; `parsing.encode_codes` packs them.

        The photographs, resized to 512 x 512 each, share one pass; the codes are brought back to each
        photograph's size by the nearest pixel.

        Args:
            images: uint8 RGB (H, W, 3), of any sizes.
        """
        with torch.inference_mode():
            x_B3HW = image_batch(images, (PARSER_SIZE, PARSER_SIZE), self._device)
            logits = self._network(parser_input(x_B3HW, double_normalisation=self._double_normalisation))
            codes_BHW = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        sizes = ((image.shape[1], image.shape[0]) for image in images)
        return [
            cv2.resize(codes, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)
            for codes, size in zip(codes_BHW, sizes, strict=True)
        ]
