"""The identity path: from a face embedding to tokens, and from tokens onto image tokens (PuLID-FLUX)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.swap.attention import AttentionBackend, attention
from models.swap.config import IdentityConfig

SOFT_LIMIT = 6.0  # within-person deviations beyond which a whitened embedding is squeezed


class IdentityCrossAttention(nn.Module):
    """PuLID's perceiver cross-attention: image tokens ask, identity tokens answer.

    Module names are PuLID's (`norm1`, `norm2`, `to_q`, `to_kv`, `to_out`), so its weight files fit. The
    output map starts at zero: a fresh one leaves the transformer as it was.
    """

    def __init__(self, dim: int, config: IdentityConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.token_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(config.token_dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, identity_BTD: Tensor, image_BLD: Tensor, backend: AttentionBackend = "sdpa") -> Tensor:
        """Return the (B, L, D) update of the image tokens."""
        query = self.to_q(self.norm2(image_BLD)).unflatten(-1, (self.heads, -1))
        key, value = (
            part.unflatten(-1, (self.heads, -1))
            for part in self.to_kv(self.norm1(identity_BTD)).chunk(2, dim=-1)
        )
        return self.to_out(attention(query, key, value, backend))


class IdentityEncoder(nn.Module):
    """Map a face embedding (B, D) to identity tokens (B, T, token_dim).

    With `encoder="mlp"` the embedding is whitened by stored statistics (`fit_whitening`), softly limited and
    sent through a small network. With `encoder="tokens"` the rows are ready tokens (PuLID's 32 x 2048), only
    reshaped, and the unconditional tokens are a stored tensor. "No identity" is the all-zero embedding in
    both cases, as PuLID's unconditional is its encoder at zero, not zero tokens.
    """

    mean: Tensor
    whitening: Tensor
    unconditional_tokens: Tensor

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config
        if config.encoder == "tokens":
            self.register_buffer("unconditional_tokens", torch.zeros(config.tokens, config.token_dim))
            return
        self.register_buffer("mean", torch.zeros(config.embedding_dim))
        self.register_buffer("whitening", torch.eye(config.embedding_dim))
        self.network = nn.Sequential(
            nn.Linear(config.embedding_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.tokens * config.token_dim),
        )

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return (B, T, token_dim) tokens; ValueError if the embedding has another length."""
        flat = embedding_BD.flatten(1).to(next(iter(self.buffers())).dtype)
        if flat.shape[1] != self.config.embedding_dim:
            raise ValueError(
                f"identity embedding has {flat.shape[1]} values, this model takes {self.config.embedding_dim}"
            )
        shape = (self.config.tokens, self.config.token_dim)
        if self.config.encoder == "tokens":
            absent = (flat == 0).all(dim=1)[:, None, None]
            return torch.where(absent, self.unconditional_tokens, flat.unflatten(1, shape))
        whitened = (flat - self.mean) @ self.whitening
        # The zero embedding lies far outside the fitted cloud; unlimited it would drown the network.
        limited = SOFT_LIMIT * torch.tanh(whitened / SOFT_LIMIT)
        return self.network(limited).unflatten(1, shape)

    def unconditional(self, batch: int) -> Tensor:
        """Return the (B, T, token_dim) tokens of "no identity"."""
        reference = next(iter(self.buffers()))
        zeros = torch.zeros(batch, self.config.embedding_dim, device=reference.device, dtype=reference.dtype)
        return self(zeros)

    @torch.no_grad()
    def fit_whitening(self, embeddings_ND: Tensor, people_N: Tensor, *, floor: float = 0.02) -> None:
        """Set mean and whitening from photos of several people, (N, D) with (N,) integer labels.

        After it, the photos of one person scatter with unit covariance about that person's mean (linear
        discriminant scaling): directions that pose and light move are shrunk, those that tell people apart
        stand out. `floor` is added to every variance, as a share of the largest. ValueError unless some
        person has two photos.
        """
        if self.config.encoder != "mlp":
            raise ValueError("only the 'mlp' encoder is whitened")
        embeddings = embeddings_ND.double()
        count = int(people_N.max()) + 1
        sums = torch.zeros(count, embeddings.shape[1], dtype=torch.float64).index_add_(
            0, people_N, embeddings
        )
        photos = torch.bincount(people_N, minlength=count)
        freedom = len(people_N) - int((photos > 0).sum())
        if freedom < 1:
            raise ValueError("whitening needs people with two photos or more")
        scatter = embeddings - (sums / photos.clamp(min=1)[:, None])[people_N]
        values, vectors = torch.linalg.eigh(scatter.T @ scatter / freedom)
        scale = (values.clamp(min=0) + floor * values.max()).rsqrt()
        self.mean.copy_(embeddings.mean(dim=0))
        self.whitening.copy_(vectors * scale)


def identity_attention_layers(
    dim: int, num_layers: int, num_single_layers: int, config: IdentityConfig
) -> nn.ModuleList:
    """Return the cross-attentions in the order they act: double blocks 0, n, ..., then single blocks 0, m,
    ...
    """
    count = len(range(0, num_layers, config.double_interval))
    count += len(range(0, num_single_layers, config.single_interval))
    return nn.ModuleList(IdentityCrossAttention(dim, config) for _ in range(count))
