"""IR-SE50, the ArcFace network of `model_ir_se50.pth`: APPLE's other identity loss, REFace's measure.

An improved residual network with squeeze-and-excitation (Deng et al., "ArcFace", 2018; Hu et al.,
"Squeeze-and-Excitation Networks", 2017), in the form that StyleGAN encoders use as an identity loss. Tensors
carry the published names (`input_layer.*`, `body.{0..23}.*`, `output_layer.*`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.identity.ir_se_sizes import IR_SE50, SQUEEZE, IrSeConfig
from models.identity.simswap_arcface import FINAL_GRID, require_arcface_input
from models.weight_files import KeyAdapter, load_weights

TRAINING_DROPOUT = 0.6
"""Dropout before the last matrix in training. It is off here; its module keeps the published numbering."""


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the mean over the picture says of them; two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        inside = functional.relu(self.fc1(x_BCHW.mean(dim=(2, 3), keepdim=True)))
        return x_BCHW * torch.sigmoid(self.fc2(inside))


class Block(nn.Module):
    """Normalisation, two 3x3 convolutions and squeeze-and-excitation, added to a shortcut.

    Where the number of channels stays, the shortcut of a halving block takes every second pixel.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = None
        if channels_in != channels_out:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            SqueezeExcitation(channels_out),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        if self.shortcut_layer is None:
            shortcut = x_BCHW[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x_BCHW)
        return self.res_layer(x_BCHW) + shortcut


class IrSe50(nn.Module):
    """Pictures to embeddings, under the published tensor names."""

    def __init__(self, config: IrSeConfig = IR_SE50) -> None:
        super().__init__()
        self.config = config
        stem, last = config.stem_channels, config.channels[-1]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        blocks, channels = [], stem
        for depth, width in zip(config.depths, config.channels, strict=True):
            blocks.append(Block(channels, width, 2))
            blocks += [Block(width, width, 1) for _ in range(1, depth)]
            channels = width
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(TRAINING_DROPOUT),
            nn.Flatten(),
            nn.Linear(last * FINAL_GRID**2, config.embedding_dim),
            nn.BatchNorm1d(config.embedding_dim),
        )

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Embed faces; differentiable.

        Args:
            x_B3HW: (B, 3, 112, 112) RGB in 0..1; brought to -1..1 inside.

        Returns:
            (B, 512) of length 1.

        Raises:
            ValueError: another shape.
        """
        require_arcface_input(x_B3HW)
        x = self.output_layer(self.body(self.input_layer((x_B3HW - 0.5) / 0.5)))
        return functional.normalize(x, dim=1)


def load_ir_se50(path: str | Path, adapter: KeyAdapter | None = None, config: IrSeConfig = IR_SE50) -> IrSe50:
    """Read the published network, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of `model_ir_se50.pth`.
        adapter: renames the file's tensors, for other layouts.
        config: shape of the network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = IrSe50(config)
    load_weights(network, path, adapter)
    return network
