"""CLIP ViT-L/14 with the aesthetic head of improved-aesthetic-predictor (Schuhmann; Apache-2.0).

The head is five linear layers with nothing but dropout between them, so it is one affine map of the
normalised image embedding; `fold` computes it. The parameters have the names of the single file APPLE uses
(`RE-N-Y/laion-aesthetic`); the two files that one was made from are read as well.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.weight_files import KeyAdapter, load_weights

CLIP_OTHER_PREFIXES = ("text_model.", "text_projection.", "logit_scale")
POSITION_TABLE = "position_ids"
"""Row numbers that older files store; they are no weights."""


def _tower_config(config: ClipAestheticsConfig) -> CLIPVisionConfig:
    """The tower's sizes in transformers' words."""
    return CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward_dim,
        projection_dim=config.embedding_dim,
        hidden_act="quick_gelu",
    )


class AestheticHead(nn.Module):
    """The published head: five linear layers; dropout after the first three is idle in evaluation mode."""

    def __init__(self, config: ClipAestheticsConfig | None = None) -> None:
        super().__init__()
        config = config or ClipAestheticsConfig()
        first, second, third, fourth = config.head_dims
        self.layers = nn.Sequential(
            nn.Linear(config.embedding_dim, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, embedding_BE: Tensor) -> Tensor:
        """Scores (B,) of normalised embeddings (B, E), layer by layer."""
        return self.layers(embedding_BE)[:, 0]


class FoldedHead(nn.Module):
    """The head as one affine map: `weight_E . embedding + bias`, 769 numbers for the published one."""

    weight_E: Tensor
    bias: Tensor

    def __init__(self, weight_E: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_E", weight_E)
        self.register_buffer("bias", bias)

    def forward(self, embedding_BE: Tensor) -> Tensor:
        """Scores (B,) of normalised embeddings (B, E)."""
        return embedding_BE.to(self.weight_E.dtype) @ self.weight_E + self.bias


def fold(head: AestheticHead) -> FoldedHead:
    """Multiply the five layers into one; computed in float64, kept in the type of the head."""
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    dtype = linears[0].weight.dtype
    matrix = torch.eye(linears[0].in_features, dtype=torch.float64, device=linears[0].weight.device)
    shift = matrix.new_zeros(linears[0].in_features)
    for layer in linears:
        weight = layer.weight.detach().double()
        matrix, shift = weight @ matrix, weight @ shift + layer.bias.detach().double()
    return FoldedHead(matrix[0].to(dtype), shift[0].to(dtype))


class ClipAesthetics(nn.Module):
    """Tower and head; freshly made with random weights, `load_clip_aesthetics` fills them in."""

    def __init__(self, config: ClipAestheticsConfig | None = None) -> None:
        super().__init__()
        self.config = config or ClipAestheticsConfig()
        self.clip = CLIPVisionModelWithProjection(_tower_config(self.config))
        self.mlp = AestheticHead(self.config)

    def embed(self, x_B3SS: Tensor) -> Tensor:
        """Image embeddings of length 1, (B, E); differentiable.

        Args:
            x_B3SS: (B, 3, 224, 224), as from `models.clip_inputs.clip_input`.
        """
        pixels = x_B3SS.to(self.clip.visual_projection.weight.dtype)
        embedding_BE = self.clip(pixel_values=pixels).image_embeds
        return embedding_BE / embedding_BE.norm(dim=1, keepdim=True)

    def forward(self, x_B3SS: Tensor) -> Tensor:
        """Scores (B,) through the unfolded head; differentiable. Argument as of `embed`."""
        return self.mlp(self.embed(x_B3SS))


def clip_name(name: str) -> str | None:
    """The tower's name of a tensor of OpenAI's CLIP as transformers stores it; None for the text half."""
    wanted = not name.startswith(CLIP_OTHER_PREFIXES) and not name.endswith(POSITION_TABLE)
    return name if wanted else None


def single_file_name(name: str) -> str | None:
    """This module's name of a tensor of the single file that holds tower and head."""
    return None if name.endswith(POSITION_TABLE) else name


def load_clip_aesthetics(
    path: str | Path,
    head_path: str | Path | None = None,
    config: ClipAestheticsConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    adapter: KeyAdapter | None = None,
) -> ClipAesthetics:
    """Read tower and head, frozen, in evaluation mode, on the CPU.

    Args:
        path: one safetensors file with both (`clip.*`, `mlp.*`), or with `head_path` CLIP's own file.
        head_path: a safetensors file of the head alone (`layers.*`).
        config: sizes; the published ones when left out.
        dtype: type of the weights.
        adapter: renames the tensors of `path`, when they have other names than these.

    Raises:
        FileNotFoundError: there is no such file.
        models.weight_files.WeightMismatch: a file does not fit.
    """
    with torch.device("meta"):
        network = ClipAesthetics(config).to(dtype)
    if head_path is None:
        load_weights(network, path, adapter or single_file_name)
    else:
        load_weights(network.clip, path, adapter or clip_name)
        load_weights(network.mlp, head_path)
    _number_positions(network.clip)
    return network.eval().requires_grad_(False)


def load_clip_tower(path: str | Path, config: ClipAestheticsConfig | None = None) -> nn.Module:
    """Read CLIP's image tower alone, frozen, in evaluation mode, on the CPU: a CLIPVisionModelWithProjection.

    Args:
        path: a safetensors file of OpenAI's CLIP as transformers stores it; its text half is ignored.
        config: sizes; those of the head do not count.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        tower = ClipAesthetics(config).clip
    load_weights(tower, path, clip_name)
    _number_positions(tower)
    return tower.eval().requires_grad_(False)


def _number_positions(tower: CLIPVisionModelWithProjection) -> None:
    """Fill in the row numbers: not stored in any file, so still without values after a load on meta."""
    embeddings = tower.vision_model.embeddings
    positions = torch.arange(embeddings.num_positions)[None]
    embeddings.register_buffer(POSITION_TABLE, positions, persistent=False)
