"""The branches of one forward pass: positions, who attends to whom, and blocks that run all of them.

Text and image tokens go through FLUX exactly as in diffusers. The condition image is a third branch of its
own (OminiControl): the same weights plus the LoRA, its own modulation (timestep 0, guidance 1), its own
position ids. A LoRA layer runs as its plain base layer on text and image. Who sees whom:

| asks | text | image | condition |
|---|---|---|---|
| text | yes | yes | yes |
| image | yes | yes | yes |
| condition | unless independent | unless independent | yes |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from models.swap.attention import AttentionBackend, attention
from models.swap.config import ConditionBranchConfig

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of a row of tokens, each (L, head_dim)."""

Projections = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of one branch, each (B, L, heads, head_dim)."""

HALF_MAX = 65504.0  # largest finite float16, where diffusers clips the residual stream too


@dataclass(frozen=True)
class Branch:
    """One stream of tokens: (B, L, D) hidden states, its (B, D) modulation, and whether LoRA acts on it."""

    hidden_BLD: Tensor
    modulation_BD: Tensor
    adapted: bool


@dataclass(frozen=True)
class KeyValue:
    """What others see of a branch in one block: keys after rotation and values, (B, L, heads, head_dim)."""

    key_BLHD: Tensor
    value_BLHD: Tensor


Condition = Branch | KeyValue | None
"""The condition in one block: running along, only looked at (its keys and values are known), or absent."""


@dataclass(frozen=True)
class JointAttention:
    """What all blocks share.

    Attributes:
        main_rotary: tables of the text and image tokens.
        condition_rotary: tables of the condition tokens; empty where none run along.
        independent_condition: whether the condition sees itself alone.
        backend: the attention kernel.
    """

    main_rotary: Rotary
    condition_rotary: Rotary
    independent_condition: bool
    backend: AttentionBackend


def image_position_ids(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return FLUX's (height x width, 3) position ids: zero, row, column, rows first."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
    return ids.to(device=device, dtype=torch.float32)


def square_side(tokens: int) -> int:
    """Return the side of a square grid of `tokens`; ValueError if it is not square."""
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens make no square grid; pass the position ids explicitly")
    return side


def condition_position_ids(ids_L3: Tensor, config: ConditionBranchConfig) -> Tensor:
    """Place the condition's own grid (L, 3) on the image's: scale about token centres, then shift."""
    placed = ids_L3.clone()
    # A condition token spanning s image tokens has its centre (s - 1) / 2 tokens after its first one.
    placed[:, 1:] = placed[:, 1:] * config.position_scale + (config.position_scale - 1.0) / 2.0
    placed[:, 1] += config.position_delta[0]
    placed[:, 2] += config.position_delta[1]
    return placed


def branch_linear(module: nn.Module, x: Tensor, *, adapted: bool) -> Tensor:
    """Apply a linear map; on a branch without adapters a LoRA layer is its base layer."""
    if not adapted and isinstance(module, LoraLayer):
        return cast(nn.Module, module.get_base_layer())(x)
    return module(x)


def _modulation(norm: nn.Module, branch: Branch, parts: int) -> tuple[Tensor, ...]:
    linear, silu = cast(nn.Module, norm.linear), cast(nn.Module, norm.silu)
    return branch_linear(linear, silu(branch.modulation_BD), adapted=branch.adapted).chunk(parts, dim=1)


def _shifted(normalise: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalise(x) * (1 + scale[:, None]) + shift[:, None]


def _project(attn: FluxAttention, x: Tensor, *, text: bool, adapted: bool) -> Projections:
    """Return query, key and value, each (B, L, heads, head_dim), query and key RMS-normalised."""
    maps = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if text else (attn.to_q, attn.to_k, attn.to_v)
    norms = (attn.norm_added_q, attn.norm_added_k) if text else (attn.norm_q, attn.norm_k)
    query, key, value = (
        branch_linear(module, x, adapted=adapted).unflatten(-1, (-1, attn.head_dim)) for module in maps
    )
    return norms[0](query), norms[1](key), value


def rotated(x_BLHD: Tensor, rotary: Rotary) -> Tensor:
    """Turn queries or keys by the angles of their positions."""
    # diffusers annotates the pair of tables as one tensor.
    return cast(Tensor, apply_rotary_emb(x_BLHD, cast(Tensor, rotary), sequence_dim=1))


def join_and_attend(
    main: list[Projections], condition: Projections | KeyValue | None, joint: JointAttention
) -> tuple[list[Tensor], Tensor | None]:
    """Let the main branches see everything, and the condition everything or itself.

    Returns (B, L, D) for each main branch, and for the condition if it asks.
    """
    lengths = [query.shape[1] for query, _, _ in main]
    query, key, value = (torch.cat(parts, dim=1) for parts in zip(*main, strict=True))
    query, key = rotated(query, joint.main_rotary), rotated(key, joint.main_rotary)
    own = None
    if isinstance(condition, KeyValue):
        key, value = torch.cat([key, condition.key_BLHD], dim=1), torch.cat([value, condition.value_BLHD], 1)
    elif condition is not None:
        tables = joint.condition_rotary
        asked, seen = rotated(condition[0], tables), KeyValue(rotated(condition[1], tables), condition[2])
        key, value = torch.cat([key, seen.key_BLHD], dim=1), torch.cat([value, seen.value_BLHD], dim=1)
        if joint.independent_condition:
            # Two attentions instead of one with a mask: fewer products, and every kernel can do it.
            own = attention(asked, seen.key_BLHD, seen.value_BLHD, joint.backend)
        else:
            query = torch.cat([query, asked], dim=1)
            lengths.append(asked.shape[1])
    out = list(attention(query, key, value, joint.backend).split(lengths, dim=1))
    if len(out) > len(main):
        own = out.pop()
    return out, own


def _finite_half(x: Tensor) -> Tensor:
    return x.clip(-HALF_MAX, HALF_MAX) if x.dtype == torch.float16 else x


def _feed_forward(ff: nn.Module, x: Tensor, *, adapted: bool) -> Tensor:
    net = cast(nn.ModuleList, ff.net)
    for module in net:
        x = branch_linear(module, x, adapted=adapted)
    return x


def _double_start(
    block: FluxTransformerBlock, branch: Branch, *, text: bool
) -> tuple[Projections, tuple[Tensor, ...]]:
    """Return what a branch brings to the attention, and the gates and shifts for what follows it."""
    norm = block.norm1_context if text else block.norm1
    shift, scale, *rest = _modulation(norm, branch, 6)
    normed = _shifted(norm.norm, branch.hidden_BLD, shift, scale)
    return _project(block.attn, normed, text=text, adapted=branch.adapted), tuple(rest)


def _double_end(
    block: FluxTransformerBlock, branch: Branch, attended: Tensor, rest: tuple[Tensor, ...], *, text: bool
) -> Branch:
    gate_attention, shift_ff, scale_ff, gate_ff = rest
    output = block.attn.to_add_out if text else block.attn.to_out[0]
    norm2, ff = (block.norm2_context, block.ff_context) if text else (block.norm2, block.ff)
    attended = branch_linear(output, attended.contiguous(), adapted=branch.adapted)
    hidden = branch.hidden_BLD + gate_attention.unsqueeze(1) * attended
    normed = _shifted(norm2, hidden, shift_ff, scale_ff)
    hidden = hidden + gate_ff.unsqueeze(1) * _feed_forward(ff, normed, adapted=branch.adapted)
    return replace(branch, hidden_BLD=_finite_half(hidden) if text else hidden)


def double_block(
    block: FluxTransformerBlock, text: Branch, image: Branch, condition: Condition, joint: JointAttention
) -> tuple[Branch, Branch, Condition]:
    """Run one double-stream block over text, image and, if it runs along, condition."""
    written, text_rest = _double_start(block, text, text=True)
    painted, image_rest = _double_start(block, image, text=False)
    if isinstance(condition, Branch):
        shown, condition_rest = _double_start(block, condition, text=False)
    else:
        shown, condition_rest = condition, ()
    (text_out, image_out), own = join_and_attend([written, painted], shown, joint)
    text = _double_end(block, text, text_out, text_rest, text=True)
    image = _double_end(block, image, image_out, image_rest, text=False)
    if isinstance(condition, Branch):
        condition = _double_end(block, condition, cast(Tensor, own), condition_rest, text=False)
    return text, image, condition


def _single_start(
    block: FluxSingleTransformerBlock, branch: Branch
) -> tuple[Projections, tuple[Tensor, Tensor]]:
    """Return what a branch brings to the attention, and its gate and hidden units for what follows it."""
    shift, scale, gate = _modulation(block.norm, branch, 3)
    normed = _shifted(block.norm.norm, branch.hidden_BLD, shift, scale)
    units = block.act_mlp(branch_linear(block.proj_mlp, normed, adapted=branch.adapted))
    return _project(block.attn, normed, text=False, adapted=branch.adapted), (gate, units)


def _single_end(
    block: FluxSingleTransformerBlock, branch: Branch, attended: Tensor, rest: tuple[Tensor, Tensor]
) -> Branch:
    gate, units = rest
    joined = torch.cat([attended, units], dim=2)
    update = gate.unsqueeze(1) * branch_linear(block.proj_out, joined, adapted=branch.adapted)
    return replace(branch, hidden_BLD=_finite_half(branch.hidden_BLD + update))


def single_block(
    block: FluxSingleTransformerBlock, main: Branch, condition: Condition, joint: JointAttention
) -> tuple[Branch, Condition]:
    """Run one single-stream block; `main` is text and image tokens joined, as FLUX has them here."""
    projections, main_rest = _single_start(block, main)
    if isinstance(condition, Branch):
        shown, condition_rest = _single_start(block, condition)
    else:
        shown, condition_rest = condition, None
    (main_out,), own = join_and_attend([projections], shown, joint)
    main = _single_end(block, main, main_out, main_rest)
    if isinstance(condition, Branch) and condition_rest is not None:
        condition = _single_end(block, condition, cast(Tensor, own), condition_rest)
    return main, condition


def double_block_alone(
    block: FluxTransformerBlock, condition: Branch, rotary: Rotary, backend: AttentionBackend
) -> tuple[Branch, KeyValue]:
    """Run a double-stream block over an independent condition; also return what the others see of it."""
    (query, key, value), rest = _double_start(block, condition, text=False)
    seen = KeyValue(rotated(key, rotary), value)
    own = attention(rotated(query, rotary), seen.key_BLHD, seen.value_BLHD, backend)
    return _double_end(block, condition, own, rest, text=False), seen


def single_block_alone(
    block: FluxSingleTransformerBlock, condition: Branch, rotary: Rotary, backend: AttentionBackend
) -> tuple[Branch, KeyValue]:
    """Run a single-stream block over an independent condition; also return what the others see of it."""
    (query, key, value), rest = _single_start(block, condition)
    seen = KeyValue(rotated(key, rotary), value)
    own = attention(rotated(query, rotary), seen.key_BLHD, seen.value_BLHD, backend)
    return _single_end(block, condition, own, rest), seen


def single_block_view(block: FluxSingleTransformerBlock, condition: Branch, rotary: Rotary) -> KeyValue:
    """Return only what the others see of the condition in a single-stream block.

    Enough for the last block, whose condition output goes nowhere.
    """
    shift, scale, _ = _modulation(block.norm, condition, 3)
    normed = _shifted(block.norm.norm, condition.hidden_BLD, shift, scale)
    attn = block.attn
    key, value = (
        branch_linear(module, normed, adapted=condition.adapted).unflatten(-1, (-1, attn.head_dim))
        for module in (attn.to_k, attn.to_v)
    )
    return KeyValue(rotated(attn.norm_k(key), rotary), value)
