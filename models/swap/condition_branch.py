"""The branches of one forward pass: positions, who attends to whom, and blocks that run all of them.

Text and image tokens go through FLUX exactly as in diffusers. The condition image is a third branch of
its own (OminiControl): the same weights plus the LoRA, its own modulation (timestep 0, guidance 1), its own
position ids. One attention joins all branches. A LoRA layer runs as its plain base layer on text and image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from models.swap.config import ConditionBranchConfig

BranchName = Literal["text", "image", "condition"]
AttentionRule = dict[tuple[BranchName, BranchName], bool]
BRANCHES: tuple[BranchName, ...] = ("text", "image", "condition")
HALF_MAX = 65504.0  # largest finite float16, where diffusers clips the residual stream too


@dataclass(frozen=True)
class Branch:
    """One stream of tokens: (B, L, D) hidden states, its (B, D) modulation, and whether LoRA acts on it."""

    hidden_BLD: Tensor
    modulation_BD: Tensor
    adapted: bool


@dataclass(frozen=True)
class JointAttention:
    """What all blocks share: rotary tables of the joined tokens, and an (L, L) mask (None: all to all)."""

    rotary: tuple[Tensor, Tensor]
    mask_LL: Tensor | None


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


def attention_rule(config: ConditionBranchConfig) -> AttentionRule:
    """Return, for each (query branch, key branch), whether the query may attend to the key."""
    rule: AttentionRule = {(query, key): True for query in BRANCHES for key in BRANCHES}
    if config.independent_condition:
        rule["condition", "text"] = False
        rule["condition", "image"] = False
    return rule


def attention_mask(
    lengths: Mapping[BranchName, int],
    rule: AttentionRule,
    device: torch.device | None = None,
) -> Tensor | None:
    """Return the (L, L) boolean mask of the joined branches, or None where everything attends everything."""
    present: list[BranchName] = [name for name in BRANCHES if lengths.get(name, 0)]
    if all(rule[query, key] for query in present for key in present):
        return None
    rows = [
        torch.cat([torch.full((lengths[query], lengths[key]), rule[query, key]) for key in present], dim=1)
        for query in present
    ]
    return torch.cat(rows, dim=0).to(device)


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


def _project(attn: FluxAttention, x: Tensor, *, text: bool, adapted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value, each (B, L, heads, head_dim), query and key RMS-normalised."""
    maps = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if text else (attn.to_q, attn.to_k, attn.to_v)
    norms = (attn.norm_added_q, attn.norm_added_k) if text else (attn.norm_q, attn.norm_k)
    query, key, value = (
        branch_linear(module, x, adapted=adapted).unflatten(-1, (-1, attn.head_dim)) for module in maps
    )
    return norms[0](query), norms[1](key), value


def _attend(projections: list[tuple[Tensor, Tensor, Tensor]], joint: JointAttention) -> list[Tensor]:
    """Join branches, attend once, and split the (B, L, D) result again."""
    lengths = [query.shape[1] for query, _, _ in projections]
    query, key, value = (torch.cat(parts, dim=1) for parts in zip(*projections, strict=True))
    rotary = cast(Tensor, joint.rotary)  # diffusers annotates the pair of tables as one tensor
    query = cast(Tensor, apply_rotary_emb(query, rotary, sequence_dim=1))
    key = cast(Tensor, apply_rotary_emb(key, rotary, sequence_dim=1))
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=joint.mask_LL
    )
    out_BLD = out.transpose(1, 2).flatten(2, 3).to(query.dtype)
    return list(out_BLD.split(lengths, dim=1))


def _finite_half(x: Tensor) -> Tensor:
    return x.clip(-HALF_MAX, HALF_MAX) if x.dtype == torch.float16 else x


def _feed_forward(ff: nn.Module, x: Tensor, *, adapted: bool) -> Tensor:
    net = cast(nn.ModuleList, ff.net)
    for module in net:
        x = branch_linear(module, x, adapted=adapted)
    return x


def double_block(
    block: FluxTransformerBlock, text: Branch, image: Branch, condition: Branch | None, joint: JointAttention
) -> tuple[Branch, Branch, Branch | None]:
    """Run one double-stream block over text, image and, if there is one, condition."""
    attn = block.attn
    branches = [(text, True), (image, False)] + ([(condition, False)] if condition is not None else [])
    gates, projections = [], []
    for branch, is_text in branches:
        norm = block.norm1_context if is_text else block.norm1
        shift, scale, gate_attention, shift_ff, scale_ff, gate_ff = _modulation(norm, branch, 6)
        normed = _shifted(norm.norm, branch.hidden_BLD, shift, scale)
        projections.append(_project(attn, normed, text=is_text, adapted=branch.adapted))
        gates.append((gate_attention, shift_ff, scale_ff, gate_ff))
    out: list[Branch] = []
    for (branch, is_text), attended, gate in zip(branches, _attend(projections, joint), gates, strict=True):
        gate_attention, shift_ff, scale_ff, gate_ff = gate
        output = attn.to_add_out if is_text else attn.to_out[0]
        norm2, ff = (block.norm2_context, block.ff_context) if is_text else (block.norm2, block.ff)
        attended = branch_linear(output, attended.contiguous(), adapted=branch.adapted)
        hidden = branch.hidden_BLD + gate_attention.unsqueeze(1) * attended
        normed = _shifted(norm2, hidden, shift_ff, scale_ff)
        hidden = hidden + gate_ff.unsqueeze(1) * _feed_forward(ff, normed, adapted=branch.adapted)
        out.append(replace(branch, hidden_BLD=_finite_half(hidden) if is_text else hidden))
    return out[0], out[1], (out[2] if condition is not None else None)


def single_block(
    block: FluxSingleTransformerBlock, main: Branch, condition: Branch | None, joint: JointAttention
) -> tuple[Branch, Branch | None]:
    """Run one single-stream block; `main` is text and image tokens joined, as FLUX has them here."""
    branches = [main] + ([condition] if condition is not None else [])
    gates, projections, mlps = [], [], []
    for branch in branches:
        shift, scale, gate = _modulation(block.norm, branch, 3)
        normed = _shifted(block.norm.norm, branch.hidden_BLD, shift, scale)
        mlps.append(block.act_mlp(branch_linear(block.proj_mlp, normed, adapted=branch.adapted)))
        projections.append(_project(block.attn, normed, text=False, adapted=branch.adapted))
        gates.append(gate)
    out: list[Branch] = []
    for branch, attended, mlp, gate in zip(branches, _attend(projections, joint), mlps, gates, strict=True):
        joined = torch.cat([attended, mlp], dim=2)
        update = gate.unsqueeze(1) * branch_linear(block.proj_out, joined, adapted=branch.adapted)
        out.append(replace(branch, hidden_BLD=_finite_half(branch.hidden_BLD + update)))
    return out[0], (out[1] if condition is not None else None)
