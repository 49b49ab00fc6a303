"""The constant prompt, as stored tensors.

APPLE uses one prompt, and the empty one for text dropout. Their two embeddings are computed once and kept, so
that no text encoder is ever loaded: T5-XXL alone would be 9.5 GB for a six-word sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.swap.config import TransformerConfig

TOKENS, POOLED, UNCONDITIONAL = "prompt_tokens", "prompt_pooled", "unconditional_tokens"


class PromptsDamaged(ValueError):
    """A file of stored prompts is incomplete or no such file; the message names it."""


@dataclass(frozen=True)
class TextEmbedding:
    """Text as the transformer takes it: tokens (B, T, joint_attention_dim) and pooled (B, pooled_dim)."""

    tokens_BTD: Tensor
    pooled_BD: Tensor


@dataclass(frozen=True)
class StoredPrompts:
    """What a base needs of its text encoders and of PuLID's encoder, computed once.

    Row 0 of `tokens_2TD` and `pooled_2D` is the empty prompt, row 1 the prompt. `unconditional_TD` are the
    identity tokens of "nobody", None where the base computes them itself.
    """

    tokens_2TD: Tensor
    pooled_2D: Tensor
    unconditional_TD: Tensor | None = None


def prompts_to_bytes(prompts: StoredPrompts) -> bytes:
    """Return a safetensors file; equal prompts give equal bytes."""
    tensors = {TOKENS: prompts.tokens_2TD, POOLED: prompts.pooled_2D}
    if prompts.unconditional_TD is not None:
        tensors[UNCONDITIONAL] = prompts.unconditional_TD
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def read_prompts(path: Path) -> StoredPrompts:
    """Read a file of `prompts_to_bytes`. Raises PromptsDamaged that names what is wrong with it."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PromptsDamaged(f"{path} cannot be read as prompt embeddings: {error}") from error
    names = {TOKENS, POOLED, UNCONDITIONAL}
    if not {TOKENS, POOLED} <= tensors.keys() <= names:
        raise PromptsDamaged(f"{path} holds {sorted(tensors)}, prompt embeddings are {sorted(names)}")
    return StoredPrompts(tensors[TOKENS], tensors[POOLED], tensors.get(UNCONDITIONAL))


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
