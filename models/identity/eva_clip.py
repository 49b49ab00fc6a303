"""The image tower of EVA02-CLIP-L-14-336 (Sun et al., "EVA-CLIP: Improved Training Techniques for CLIP").

A vision transformer with rotary positions, gated feed-forward layers and a layer norm inside both halves of
every block. PuLID reads its normalised embedding and five of its hidden states. Parameters have the names
they have in `EVA02_CLIP_L_336_psz14_s6B` under the prefix `visual.`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.identity.network_sizes import EvaClipConfig
from models.weight_files import KeyAdapter, load_weights

LAYER_NORM_EPSILON = 1e-6
ROTARY_BASE = 10_000.0

PREFIX = "visual."
ROTARY_TABLES = ("freqs_cos", "freqs_sin")
"""The published file stores the rotary tables once more in every block; they follow from the sizes."""


class EvaFeatures(NamedTuple):
    """What the tower gives: `embedding_BE`, not normalised, and one (B, tokens, width) per hidden state."""

    embedding_BE: Tensor
    hidden: tuple[Tensor, ...]


class _Attention(nn.Module):
    """Self-attention; queries and values have a bias, keys have none."""

    def __init__(self, config: EvaClipConfig) -> None:
        super().__init__()
        width = config.width
        self.head_dim = config.head_dim
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.inner_attn_ln = nn.LayerNorm(width, LAYER_NORM_EPSILON)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, cosine_LH: Tensor, sine_LH: Tensor) -> Tensor:
        query, key, value = (
            (layer(x_BLD) if bias is None else layer(x_BLD) + bias)
            .unflatten(-1, (-1, self.head_dim))
            .transpose(1, 2)
            for layer, bias in ((self.q_proj, self.q_bias), (self.k_proj, None), (self.v_proj, self.v_bias))
        )
        out = functional.scaled_dot_product_attention(
            _rotate(query, cosine_LH, sine_LH), _rotate(key, cosine_LH, sine_LH), value
        )
        return self.proj(self.inner_attn_ln(out.transpose(1, 2).flatten(2)))


class _GatedFeedForward(nn.Module):
    """SwiGLU with a layer norm before the last map."""

    def __init__(self, config: EvaClipConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.w1 = nn.Linear(config.width, hidden)
        self.w2 = nn.Linear(config.width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, LAYER_NORM_EPSILON)
        self.w3 = nn.Linear(hidden, config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(functional.silu(self.w1(x_BLD)) * self.w2(x_BLD)))


class _Block(nn.Module):
    def __init__(self, config: EvaClipConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.mlp = _GatedFeedForward(config)

    def forward(self, x_BLD: Tensor, cosine_LH: Tensor, sine_LH: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD), cosine_LH, sine_LH)
        return x_BLD + self.mlp(self.norm2(x_BLD))


class _PatchEmbedding(nn.Module):
    def __init__(self, config: EvaClipConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        return self.proj(x_B3HW).flatten(2).transpose(1, 2)


class EvaClipVision(nn.Module):
    """The image tower; freshly made it holds random weights, `load_eva_clip` fills in the published ones."""

    def __init__(self, config: EvaClipConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EvaClipConfig()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        self.patch_embed = _PatchEmbedding(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.head = nn.Linear(config.width, config.embedding_dim)

    def forward(self, x_B3HW: Tensor) -> EvaFeatures:
        """Embed images.

        Args:
            x_B3HW: (B, 3, image_size, image_size) RGB, normalised by CLIP's mean and deviation.

        Returns:
            The embedding (B, embedding_dim) and the hidden states, in the type of the weights.

        Raises:
            ValueError: another shape.
        """
        config = self.config
        if x_B3HW.ndim != 4 or tuple(x_B3HW.shape[1:]) != (3, config.image_size, config.image_size):
            raise ValueError(
                f"expected images (B, 3, {config.image_size}, {config.image_size}), got {tuple(x_B3HW.shape)}"
            )
        patches_BLD = self.patch_embed(x_B3HW.to(self.cls_token.dtype))
        x = torch.cat([self.cls_token.expand(len(patches_BLD), -1, -1), patches_BLD], dim=1) + self.pos_embed
        cosine_LH, sine_LH = _rotary_tables(config, x.device)
        hidden: list[Tensor] = []
        for count, block in enumerate(self.blocks):
            if count in config.hidden_after:
                hidden.append(x)
            x = block(x, cosine_LH, sine_LH)
        return EvaFeatures(self.head(self.norm(x)[:, 0]), tuple(hidden))


def _rotary_tables(config: EvaClipConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine by which tokens are turned, (tokens, head_dim) float32; the class token stays.

    Neighbouring channels form the pairs that are turned. The first half of a head turns with the patch's row,
    the second half with its column.
    """
    half = config.head_dim // 2
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, half, 2, device=device).float() / half)
    positions_G = torch.arange(config.grid, device=device) / config.grid * config.rotary_grid
    angles_GF = (positions_G[:, None] * frequencies).repeat_interleave(2, dim=1)
    shape = (config.grid, config.grid, half)
    angles_LH = torch.cat([angles_GF[:, None].expand(shape), angles_GF[None].expand(shape)], -1).flatten(0, 1)
    angles_LH = functional.pad(angles_LH, (0, 0, 1, 0))
    return angles_LH.cos(), angles_LH.sin()


def _rotate(x_BNLH: Tensor, cosine_LH: Tensor, sine_LH: Tensor) -> Tensor:
    """Turn pairs of channels; computed in float32, returned in the type given."""
    quarter = torch.stack([-x_BNLH[..., 1::2], x_BNLH[..., 0::2]], dim=-1).flatten(-2)
    return (x_BNLH * cosine_LH + quarter * sine_LH).to(x_BNLH.dtype)


def published_name(name: str) -> str | None:
    """This module's name of a tensor of the published CLIP; None for the text tower and rotary tables."""
    if not name.startswith(PREFIX) or name.endswith(ROTARY_TABLES):
        return None
    return name.removeprefix(PREFIX)


def load_eva_clip(
    path: str | Path,
    config: EvaClipConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    adapter: KeyAdapter = published_name,
) -> EvaClipVision:
    """Read the tower from a safetensors file of the whole CLIP, frozen, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        models.weight_files.WeightMismatch: the file is not this tower's.
    """
    with torch.device("meta"):
        tower = EvaClipVision(config).to(dtype)
    load_weights(tower, path, adapter)
    return tower
