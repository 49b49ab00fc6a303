"""PuLID's ID encoder: a face embedding and the hidden states of a vision transformer become identity tokens.

Source: Guo et al., "PuLID: Pure and Lightning ID Customization via Contrastive Alignment"; the sizes are
those of PuLID-FLUX 0.9.1. Parameters have the names they have in `pulid_flux_v0.9.1.safetensors` under the
prefix `pulid_encoder.`. The cross-attention that brings the tokens into the transformer is
`models.swap.identity_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.identity.network_sizes import IdFormerConfig
from models.weight_files import KeyAdapter, load_weights

PREFIX = "pulid_encoder."
ATTENTION_PREFIX = "pulid_ca."
"""The same file holds the cross-attentions of the swap transformer; they are not the encoder's."""


class _PerceiverAttention(nn.Module):
    """Latents ask; the context and the latents themselves answer."""

    def __init__(self, config: IdFormerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)

    def forward(self, context_BCD: Tensor, latents_BTD: Tensor) -> Tensor:
        latents = self.norm2(latents_BTD)
        keys_and_values = self.to_kv(torch.cat([self.norm1(context_BCD), latents], dim=1))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(latents), *keys_and_values.chunk(2, dim=-1))
        )
        out = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _feed_forward(config: IdFormerConfig) -> nn.Sequential:
    hidden = config.dim * config.feed_forward_ratio
    return nn.Sequential(
        nn.LayerNorm(config.dim),
        nn.Linear(config.dim, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, config.dim, bias=False),
    )


def _mapping(dim_in: int, dim_hidden: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim_in, dim_hidden),
        nn.LayerNorm(dim_hidden),
        nn.LeakyReLU(),
        nn.Linear(dim_hidden, dim_hidden),
        nn.LayerNorm(dim_hidden),
        nn.LeakyReLU(),
        nn.Linear(dim_hidden, dim_out),
    )


class IdFormer(nn.Module):
    """The encoder; freshly made it holds random weights, `load_id_former` fills in the published ones."""

    def __init__(self, config: IdFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or IdFormerConfig()
        self.latents = nn.Parameter(torch.randn(1, config.queries, config.dim) * config.dim**-0.5)
        self.proj_out = nn.Parameter(torch.randn(config.dim, config.output_dim) * config.dim**-0.5)
        self.layers = nn.ModuleList(
            nn.ModuleList([_PerceiverAttention(config), _feed_forward(config)]) for _ in range(config.depth)
        )
        for scale in range(config.scales):
            mapping = _mapping(config.feature_dim, config.feature_dim, config.dim)
            self.add_module(f"mapping_{scale}", mapping)
        self.id_embedding_mapping = _mapping(config.id_dim, config.feature_dim, config.dim * config.id_tokens)

    def forward(self, identity_BI: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """Encode identities.

        Args:
            identity_BI: (B, id_dim): the raw ArcFace embedding, then the normalised image embedding.
            hidden: one (B, L, feature_dim) for each scale, the earliest first.

        Returns:
            (B, queries, output_dim) identity tokens in the type of the weights.

        Raises:
            ValueError: another shape, or another number of hidden states.
        """
        config, dtype = self.config, self.latents.dtype
        if identity_BI.ndim != 2 or identity_BI.shape[1] != config.id_dim:
            raise ValueError(f"expected identities (B, {config.id_dim}), got {tuple(identity_BI.shape)}")
        batch = len(identity_BI)
        shapes = [tuple(state.shape) for state in hidden]
        if len(shapes) != config.scales or any(
            len(shape) != 3 or (shape[0], shape[2]) != (batch, config.feature_dim) for shape in shapes
        ):
            raise ValueError(
                f"expected {config.scales} hidden states ({batch}, L, {config.feature_dim}), got {shapes}"
            )
        id_tokens_BND = self.id_embedding_mapping(identity_BI.to(dtype)).unflatten(1, (config.id_tokens, -1))
        latents_BTD = torch.cat([self.latents.expand(batch, -1, -1), id_tokens_BND], dim=1)
        layers_per_scale = config.depth // config.scales
        for scale, state_BLF in enumerate(hidden):
            mapped_BLD = self.get_submodule(f"mapping_{scale}")(state_BLF.to(dtype))
            context_BCD = torch.cat([id_tokens_BND, mapped_BLD], dim=1)
            for index in range(scale * layers_per_scale, (scale + 1) * layers_per_scale):
                attention, feed_forward = self.layers[index].children()
                latents_BTD = attention(context_BCD, latents_BTD) + latents_BTD
                latents_BTD = feed_forward(latents_BTD) + latents_BTD
        return latents_BTD[:, : config.queries] @ self.proj_out

    def unconditional(self, tokens: int) -> Tensor:
        """The tokens of "no identity", (1, queries, output_dim): the encoder at zero, not zero tokens.

        Args:
            tokens: L of the hidden states; 577 for EVA02-CLIP-L-14-336.
        """
        config, like = self.config, self.latents
        hidden = like.new_zeros(1, tokens, config.feature_dim)
        return self(like.new_zeros(1, config.id_dim), [hidden] * config.scales)


def published_name(name: str) -> str | None:
    """This module's name of a tensor of PuLID's file; None for the swap transformer's part of it."""
    return None if name.startswith(ATTENTION_PREFIX) else name.removeprefix(PREFIX)


def load_id_former(
    path: str | Path,
    config: IdFormerConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    adapter: KeyAdapter = published_name,
) -> IdFormer:
    """Read the encoder from PuLID's safetensors file, frozen, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        models.weight_files.WeightMismatch: the file is not PuLID-FLUX's.
    """
    with torch.device("meta"):
        encoder = IdFormer(config).to(dtype)
    load_weights(encoder, path, adapter)
    return encoder
