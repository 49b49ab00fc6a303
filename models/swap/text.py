"""The constant prompt, as stored tensors.

APPLE uses one prompt, and the empty one for text dropout. Their two embeddings are computed once and kept, so
that no text encoder is ever loaded: T5-XXL alone would be 9.5 GB for a six-word sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.swap.config import TransformerConfig


@dataclass(frozen=True)
class TextEmbedding:
    """Text as the transformer takes it: tokens (B, T, joint_attention_dim) and pooled (B, pooled_dim)."""

    tokens_BTD: Tensor
    pooled_BD: Tensor


class PromptEmbeddings(nn.Module):
    """Embeddings of the prompt (row 1) and of the empty prompt (row 0), as buffers."""

    tokens: Tensor
    pooled: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(2, config.text_tokens, config.joint_attention_dim))
        self.register_buffer("pooled", torch.zeros(2, config.pooled_projection_dim))

    def forward(self, prompted_B: Tensor) -> TextEmbedding:
        """Return each row's embedding: the prompt where `prompted_B` (bool) is true, else the empty one."""
        rows = prompted_B.long()
        return TextEmbedding(self.tokens[rows], self.pooled[rows])

    def prompt(self, batch: int) -> TextEmbedding:
        """Return the prompt's embedding for `batch` rows."""
        return self(torch.ones(batch, dtype=torch.bool, device=self.tokens.device))

    @torch.no_grad()
    def fill_with_noise(self, generator: torch.Generator) -> None:
        """Give a model that knows no language two fixed, distinct embeddings of unit variance."""
        for buffer in (self.tokens, self.pooled):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
