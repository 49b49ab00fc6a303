"""LPIPS with VGG16: how different two pictures look (Zhang et al., "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric", 2018; version 0.1 of its published weights).

Features behind five rectifiers of VGG16 (Simonyan and Zisserman, 2014) are scaled to length 1 at every pixel;
their squared differences are weighted per channel, averaged over the picture and summed over the five layers.
Tensors carry torchvision's names (`features.0.weight`) and those of the published weights of the layers
(`lin0.model.1.weight`); neither package is needed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.weight_files import load_weights

VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions between poolings; the last rectifiers are relu1_2 to relu5_3."""

SCALING_SHIFT = (-0.030, -0.088, -0.188)
SCALING_SCALE = (0.458, 0.448, 0.450)
"""What takes RGB in -1..1 to the inputs of the published networks (LPIPS, scaling layer)."""

LENGTH_EPSILON = 1e-10
"""Added to the length of a pixel's features before the division."""

SMALLEST_SIDE = 16
"""VGG halves the picture four times before its last layer."""

CLASSIFIER_PREFIXES = ("classifier.", "pre_logits.", "head.")
"""VGG's classifier in torchvision's files, and in timm's copies of them."""


class VggFeatures(nn.Module):
    """The convolutional part of VGG16 up to relu5_3, under torchvision's tensor names."""

    def __init__(self, stages: tuple[tuple[int, ...], ...] = VGG_STAGES) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        channels = 3
        for index, widths in enumerate(stages):
            if index:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self._ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x_B3HW: Tensor) -> list[Tensor]:
        """Scaled pictures (B, 3, H, W) to five maps (B, C, H / 2^k, W / 2^k), k from 0 to 4."""
        maps, x = [], x_B3HW
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._ends:
                maps.append(x)
        return maps


class LayerWeight(nn.Module):
    """One weight per channel; its dropout (in training) keeps the published numbering."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W)."""
        return self.model(x_BCHW)


class LayerWeights(nn.Module):
    """The five layers' weights, `lin0` to `lin4`."""

    def __init__(self, stages: tuple[tuple[int, ...], ...] = VGG_STAGES) -> None:
        super().__init__()
        for index, widths in enumerate(stages):
            self.add_module(f"lin{index}", LayerWeight(widths[-1]))


class LpipsVgg(nn.Module):
    """The distance, of features and the weights of their layers; `load_lpips` reads the published ones."""

    def __init__(self, vgg: VggFeatures, weights: LayerWeights) -> None:
        super().__init__()
        self.vgg = vgg
        self.weights = weights

    def forward(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Distance of each pair of pictures; differentiable in both.

        Args:
            first_B3HW: (B, 3, H, W) RGB in -1..1, of any size from 16 x 16 on.
            second_B3HW: of the same shape.

        Returns:
            (B,), 0 for equal pictures.

        Raises:
            ValueError: another shape, or two shapes.
        """
        shape = tuple(first_B3HW.shape)
        if shape != tuple(second_B3HW.shape) or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"expected two batches (B, 3, H, W), got {shape} and {tuple(second_B3HW.shape)}")
        if min(shape[2:]) < SMALLEST_SIDE:
            raise ValueError(f"{shape[2]} x {shape[3]} px: LPIPS needs {SMALLEST_SIDE} px on each side")
        distances_B = first_B3HW.new_zeros(shape[0])
        pairs = zip(
            self.vgg(_scaled(first_B3HW)),
            self.vgg(_scaled(second_B3HW)),
            self.weights.children(),
            strict=True,
        )
        for first, second, weight in pairs:
            difference_BCHW = (_unit_length(first) - _unit_length(second)) ** 2
            distances_B = distances_B + weight(difference_BCHW).mean(dim=(1, 2, 3))
        return distances_B


def _scaled(x_B3HW: Tensor) -> Tensor:
    shift = x_B3HW.new_tensor(SCALING_SHIFT)[:, None, None]
    return (x_B3HW - shift) / x_B3HW.new_tensor(SCALING_SCALE)[:, None, None]


def _unit_length(x_BCHW: Tensor) -> Tensor:
    # The norm's own gradient at an all-zero pixel is defined as 0, unlike that of a square root of a sum.
    length_B1HW = torch.linalg.vector_norm(x_BCHW, dim=1, keepdim=True)
    return x_BCHW / (length_B1HW + LENGTH_EPSILON)


def _without_classifier(name: str) -> str | None:
    return None if name.startswith(CLASSIFIER_PREFIXES) else name


def load_vgg_features(path: str | Path) -> VggFeatures:
    """Read VGG16's convolutions, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with torchvision's VGG16, or timm's copy of it; the classifier is ignored.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        features = VggFeatures()
    load_weights(features, path, _without_classifier)
    return features


def load_layer_weights(path: str | Path) -> LayerWeights:
    """Read the weights of the five layers (LPIPS 0.1, `vgg.pth`); as `load_vgg_features`."""
    with torch.device("meta"):
        weights = LayerWeights()
    load_weights(weights, path)
    return weights


def load_lpips(vgg_path: str | Path, weights_path: str | Path) -> LpipsVgg:
    """Read the published distance from the files of both roles, frozen, on the CPU.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    return LpipsVgg(load_vgg_features(vgg_path), load_layer_weights(weights_path)).eval()
