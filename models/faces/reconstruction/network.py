"""3DDFA-V3's reconstruction network: a 224-pixel face crop to 257 coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from models.faces.network_sizes import RESNET50, ResNetConfig
from models.faces.reconstruction.backbone_mobilenet import (
    MOBILENET_V3_LARGE,
    MobileNetConfig,
    MobileNetV3,
)
from models.faces.reconstruction.coefficients import (
    ALBEDO_SIZE,
    ANGLE_SIZE,
    EXPRESSION_SIZE,
    IDENTITY_SIZE,
    ILLUMINATION_SIZE,
)
from models.faces.reconstruction.five_points import CROP_SIZE
from models.faces.resnet import ResNet
from models.weight_files import KeyAdapter, load_weights

BackboneName = Literal["resnet50", "mobilenet_v3_large"]

HEAD_SIZES = (IDENTITY_SIZE, EXPRESSION_SIZE, ALBEDO_SIZE, ANGLE_SIZE, ILLUMINATION_SIZE, 2, 1)
"""Outputs of the seven heads; the translation has two: right and up, and towards the camera."""

BACKBONES: dict[BackboneName, ResNetConfig | MobileNetConfig] = {
    "resnet50": RESNET50,
    "mobilenet_v3_large": MOBILENET_V3_LARGE,
}
"""The two published networks: `net_recon.pth` and `net_recon_mbnet.pth`."""


class ReconstructionNet(nn.Module):
    """A backbone, the mean over its last map, and seven linear heads.

    Tensor names: `backbone.*` (see `ResNet` and `MobileNetV3`) and `final_layers.{0..6}.{weight,bias}`, as in
    the published files under `net_recon`.

    Args:
        config: of a ResNet or a MobileNetV3.
    """

    def __init__(self, config: ResNetConfig | MobileNetConfig) -> None:
        super().__init__()
        if isinstance(config, ResNetConfig):
            self.backbone, channels = ResNet(config), config.channels[-1]
        else:
            self.backbone, channels = MobileNetV3(config), config.channels
        self.final_layers = nn.ModuleList(nn.Conv2d(channels, size, 1) for size in HEAD_SIZES)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Coefficients of a batch of crops; differentiable.

        Args:
            x_B3HW: (B, 3, 224, 224) float RGB in 0..1, cropped by `five_points`; neither mean nor deviation
                is taken off.

        Returns:
            (B, 257); see `coefficients.split_coefficients`.

        Raises:
            ValueError: another shape.
        """
        if x_B3HW.ndim != 4 or tuple(x_B3HW.shape[1:]) != (3, CROP_SIZE, CROP_SIZE):
            raise ValueError(f"expected crops (B, 3, {CROP_SIZE}, {CROP_SIZE}), got {tuple(x_B3HW.shape)}")
        features = self.backbone(x_B3HW)
        last = features[-1] if isinstance(features, tuple) else features
        pooled = last.mean(dim=(2, 3), keepdim=True)
        return torch.cat([head(pooled) for head in self.final_layers], dim=1).flatten(1)


def load_reconstruction_net(
    path: str | Path,
    backbone: BackboneName,
    adapter: KeyAdapter | None = None,
    config: ResNetConfig | MobileNetConfig | None = None,
) -> ReconstructionNet:
    """Read one of the two published networks, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of the published file's `net_recon`.
        backbone: which of the two.
        adapter: renames the file's tensors, for other layouts.
        config: shape of the backbone; the published one's when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = ReconstructionNet(config or BACKBONES[backbone])
    load_weights(network, path, adapter)
    return network
