"""The blocks of the ADM U-Net: step embedding, residual block with scale and shift, self-attention.

Module names (`in_layers`, `emb_layers`, `out_layers`, `skip_connection`, `norm`, `qkv`, `proj_out`) are those
of the published checkpoints, whose keys load unchanged. Source: ADM, arXiv 2105.05233, section 3.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.diffface import constants

Resample = Literal["keep", "down", "up"]
"""What a residual block does to the side of its feature map: nothing, halve or double."""


def timestep_embedding(timestep_B: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the step at `width / 2` frequencies from 1 down to almost 1 / 10,000.

    Args:
        timestep_B: steps of the original schedule, whole or fractional.
        width: even length of the result.

    Returns:
        (B, width) float32.
    """
    half = width // 2
    exponents_H = torch.arange(half, dtype=torch.float32, device=timestep_B.device) / half
    frequencies_H = torch.exp(-math.log(constants.TIMESTEP_MAX_PERIOD) * exponents_H)
    angles_BH = timestep_B.float()[:, None] * frequencies_H[None]
    return torch.cat([angles_BH.cos(), angles_BH.sin()], dim=1)


def zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The convolution with weights and bias 0, so that its branch starts as silence."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm(nn.GroupNorm):
    """Group normalisation that computes in float32 or wider and answers in the precision it was given."""

    def __init__(self, groups: int, channels: int) -> None:
        """Normalise `channels` in `groups`."""
        super().__init__(groups, channels, eps=constants.NORM_EPSILON)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) over each group's channels and positions."""
        wide = torch.promote_types(input.dtype, torch.float32)
        weight_C, bias_C = self.weight.to(wide), self.bias.to(wide)
        return functional.group_norm(input.to(wide), self.num_groups, weight_C, bias_C, self.eps).to(
            input.dtype
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip; the embedding scales and shifts every channel between them (FiLM)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        groups: int,
        *,
        dropout: float = 0.0,
        resample: Resample = "keep",
    ) -> None:
        """Map `in_channels` to `out_channels`; `resample` halves or doubles both branches alike."""
        super().__init__()
        self.resample: Resample = resample
        self.in_layers = nn.Sequential(
            GroupNorm(groups, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, 2 * out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def _resized(self, x_BCHW: Tensor) -> Tensor:
        if self.resample == "down":
            return functional.avg_pool2d(x_BCHW, 2)
        if self.resample == "up":
            return functional.interpolate(x_BCHW, scale_factor=2, mode="nearest")
        return x_BCHW

    def forward(self, x_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        """(B, in, H, W) and (B, E) to (B, out, H', W')."""
        first_norm, activation, first_convolution = self.in_layers
        hidden = first_convolution(self._resized(activation(first_norm(x_BCHW))))

        film_BC11 = self.emb_layers(embedding_BE)[:, :, None, None].to(hidden.dtype)
        scale_BC11, shift_BC11 = film_BC11.chunk(2, dim=1)
        second_norm, activation, dropout, second_convolution = self.out_layers
        hidden = second_norm(hidden) * (1 + scale_BC11) + shift_BC11
        hidden = second_convolution(dropout(activation(hidden)))

        return self.skip_connection(self._resized(x_BCHW)) + hidden


class SelfAttention(nn.Module):
    """Every position of a feature map attends to every other; a residual branch."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        """Attend with `channels / head_channels` heads."""
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape.

        The channels of `qkv` are grouped by head first: head 0's query, key, value, then head 1's.
        """
        x_BCL = x_BCHW.flatten(2)
        qkv_BnDL = self.qkv(self.norm(x_BCL)).unflatten(1, (self.heads, -1))
        query, key, value = (part.transpose(2, 3) for part in qkv_BnDL.chunk(3, dim=2))
        mixed_BnLD = functional.scaled_dot_product_attention(query, key, value)
        mixed_BCL = mixed_BnLD.transpose(2, 3).flatten(1, 2)
        return x_BCHW + self.proj_out(mixed_BCL).view_as(x_BCHW)


class Stage(nn.ModuleList):
    """Blocks of one step of the U-Net, run in order; only residual blocks take the embedding."""

    def forward(self, x_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        """(B, C, H, W) and (B, E) to (B, C', H', W')."""
        hidden = x_BCHW
        for block in self:
            hidden = block(hidden, embedding_BE) if isinstance(block, ResidualBlock) else block(hidden)
        return hidden
