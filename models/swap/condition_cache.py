"""Keys and values of an independent condition, computed once and looked at in every step.

A condition that sees itself alone depends on nothing but its own tokens, the pooled text and its fixed
timestep. Everything the other branches ever see of it are its keys and values in each block. With
`independent_condition=False` (the paper's weights) it changes with the noisy image, and there is no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformer2DModel,
    FluxTransformerBlock,
)

from models.swap.attention import AttentionBackend
from models.swap.condition_branch import (
    Branch,
    KeyValue,
    Rotary,
    double_block_alone,
    single_block_alone,
    single_block_view,
)
from models.swap.config import SwapModelConfig


class CacheUnavailable(ValueError):
    """The condition of these weights cannot be computed once; the message says why."""


@dataclass(frozen=True)
class ConditionCache:
    """What a batch's conditions show in each block, in the order of the blocks.

    Valid for the weights, the pooled text and the attention backend it was made with.
    """

    double: tuple[KeyValue, ...]
    single: tuple[KeyValue, ...]

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return len(self.single[0].key_BLHD)

    @property
    def bytes(self) -> int:
        """Memory of all keys and values: 717 MB for one picture with FLUX at 512 px in bfloat16."""
        parts = [part for seen in (*self.double, *self.single) for part in (seen.key_BLHD, seen.value_BLHD)]
        return sum(part.numel() * part.element_size() for part in parts)


def cache_refusal(config: SwapModelConfig) -> str | None:
    """Return why the condition cannot be cached, or None where it can."""
    if config.condition.independent_condition:
        return None
    return (
        "these weights have independent_condition=False: their condition sees the noisy image and changes "
        "with every step"
    )


def encode_blocks(
    flux: FluxTransformer2DModel, condition: Branch, rotary: Rotary, backend: AttentionBackend
) -> ConditionCache:
    """Run all blocks over an embedded condition alone and keep what it shows in each."""
    double, single = [], []
    for block in flux.transformer_blocks:
        condition, seen = double_block_alone(cast(FluxTransformerBlock, block), condition, rotary, backend)
        double.append(seen)
    *earlier, last = flux.single_transformer_blocks
    for block in earlier:
        block = cast(FluxSingleTransformerBlock, block)
        condition, seen = single_block_alone(block, condition, rotary, backend)
        single.append(seen)
    single.append(single_block_view(cast(FluxSingleTransformerBlock, last), condition, rotary))
    return ConditionCache(tuple(double), tuple(single))
