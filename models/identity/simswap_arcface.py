"""The ArcFace network of SimSwap: the identity loss of APPLE's teacher, and the embedder of DiffFace.

An improved residual network with squeeze-and-excitation (Deng et al., "ArcFace", 2018; Hu et al.,
"Squeeze-and-Excitation Networks", 2017), trained on 93,431 classes of MS-Celeb-1M. The tensors carry the
names of the plain state dict `simswap_arcface.pth`. Particular to this network: a stem without padding (112
to 110 pixels), one slope for all channels in every PReLU, and the same PReLU twice in a block.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.faces.network_inputs import imagenet_normalised
from models.identity.ir_se_sizes import ARCFACE_INPUT, SIMSWAP_ARCFACE, SQUEEZE, IrSeConfig
from models.weight_files import KeyAdapter, load_weights

FINAL_GRID = 7
"""Rows and columns of the last feature map of a 112-pixel picture."""


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the mean over the picture says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inside = channels // SQUEEZE
        self.fc = nn.Sequential(
            nn.Linear(channels, inside), nn.PReLU(), nn.Linear(inside, channels), nn.Sigmoid()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x_BCHW * self.fc(x_BCHW.mean(dim=(2, 3)))[:, :, None, None]


class Block(nn.Module):
    """Normalisation, two 3x3 convolutions and squeeze-and-excitation around a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.se = SqueezeExcitation(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride), rounded up."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x = self.prelu(self.bn1(self.conv1(self.bn0(x_BCHW))))
        return self.prelu(self.se(self.bn2(self.conv2(x))) + shortcut)


class SimSwapArcFace(nn.Module):
    """Pictures to embeddings, under the published tensor names."""

    def __init__(self, config: IrSeConfig = SIMSWAP_ARCFACE) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, config.stem_channels, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_channels)
        self.prelu = nn.PReLU()
        self.layer1, self.layer2, self.layer3, self.layer4 = self._stages()
        last = config.channels[-1]
        self.bn2 = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last * FINAL_GRID**2, config.embedding_dim)
        self.bn3 = nn.BatchNorm1d(config.embedding_dim)

    def _stages(self) -> list[nn.Sequential]:
        stages, channels = [], self.config.stem_channels
        for index, (depth, width) in enumerate(zip(self.config.depths, self.config.channels, strict=True)):
            blocks = [Block(channels, width, 1 if index == 0 else 2)]
            blocks += [Block(width, width, 1) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        return stages

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Embed faces; differentiable. The network was trained with dropout, which is off here.

        Args:
            x_B3HW: (B, 3, 112, 112) RGB in 0..1; ImageNet's mean and deviation are taken off inside, as
                SimSwap, APPLE and DiffFace (when it samples) do.

        Returns:
            (B, 512), not normalised; compare by cosine.

        Raises:
            ValueError: another shape.
        """
        require_arcface_input(x_B3HW)
        x = self.prelu(self.bn1(self.conv1(imagenet_normalised(x_B3HW))))
        x = functional.max_pool2d(x, 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.bn3(self.fc(self.bn2(x).flatten(1)))


def require_arcface_input(x_B3HW: Tensor) -> None:
    """Check the shape (B, 3, 112, 112). Raises ValueError that names it."""
    if x_B3HW.ndim != 4 or tuple(x_B3HW.shape[1:]) != (3, ARCFACE_INPUT, ARCFACE_INPUT):
        raise ValueError(
            f"expected pictures (B, 3, {ARCFACE_INPUT}, {ARCFACE_INPUT}), got {tuple(x_B3HW.shape)}"
        )


def load_simswap_arcface(
    path: str | Path, adapter: KeyAdapter | None = None, config: IrSeConfig = SIMSWAP_ARCFACE
) -> SimSwapArcFace:
    """Read the published network, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of `simswap_arcface.pth`.
        adapter: renames the file's tensors, for other layouts.
        config: shape of the network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = SimSwapArcFace(config)
    load_weights(network, path, adapter)
    return network
