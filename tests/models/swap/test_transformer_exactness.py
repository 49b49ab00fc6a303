"""Exactness of the transformer: against stock diffusers to the bit, and against the equations written out."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple, cast

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

from models.swap import config as swap_config
from models.swap.config import ConditionBranchConfig, LoraConfig, SwapModelConfig
from models.swap.transformer import SwapTransformer


class Naive:
    """FLUX with a condition branch written out from the equations, on plain weight tensors."""

    def __init__(self, model: SwapTransformer) -> None:
        self.model = model
        self.weights = {re.sub(r"\.base_layer", "", k): v for k, v in model.flux.state_dict().items()}
        self.scale = model.config.lora.alpha / model.config.lora.rank
        self.heads = model.config.transformer.num_attention_heads
        self.head_dim = model.config.transformer.attention_head_dim

    def linear(self, name: str, x: torch.Tensor, adapted: bool = False) -> torch.Tensor:
        out = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        if adapted and f"{name}.lora_A.default.weight" in self.weights:
            a, b = (
                self.weights[f"{name}.lora_A.default.weight"],
                self.weights[f"{name}.lora_B.default.weight"],
            )
            out = out + self.scale * (x @ (b @ a).T)
        return out

    @staticmethod
    def layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)

    @staticmethod
    def silu(x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-x))

    @staticmethod
    def gelu(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def sinusoid(self, value: float) -> torch.Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = value * frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)])

    def modulation(self, t: float, guidance: float, pooled: torch.Tensor) -> torch.Tensor:
        embedded = {"timestep_embedder": self.sinusoid(t * 1000), "text_embedder": pooled}
        if self.model.config.transformer.guidance_embeds:
            embedded["guidance_embedder"] = self.sinusoid(guidance * 1000)
        total = torch.zeros(self.heads * self.head_dim)
        for name, x in embedded.items():
            hidden = self.silu(self.linear(f"time_text_embed.{name}.linear_1", x))
            total = total + self.linear(f"time_text_embed.{name}.linear_2", hidden)
        return total

    def rotation(self, position: torch.Tensor) -> torch.Tensor:
        """The matrix that turns each pair of a head's values by its own angle."""
        side = self.head_dim
        matrix, start = [[0.0] * side for _ in range(side)], 0
        for axis, width in enumerate(self.model.config.transformer.axes_dims_rope):
            for first in range(start, start + width, 2):
                angle = float(position[axis]) / 10000 ** ((first - start) / width)
                matrix[first][first], matrix[first][first + 1] = math.cos(angle), -math.sin(angle)
                matrix[first + 1][first], matrix[first + 1][first + 1] = math.sin(angle), math.cos(angle)
            start += width
        return torch.tensor(matrix)

    def heads_of(self, name: str, norm: str | None, x: torch.Tensor, adapted: bool) -> torch.Tensor:
        y = self.linear(name, x, adapted).reshape(len(x), self.heads, self.head_dim)
        if norm is not None:
            y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-6) * self.weights[f"{norm}.weight"]
        return y

    def attend(self, q, k, v, rotations, sees) -> torch.Tensor:
        out = torch.zeros_like(v)
        for head in range(self.heads):
            keys = torch.stack([rotations[j] @ k[j, head] for j in range(len(k))])
            for i in range(len(q)):
                seen = [j for j in range(len(k)) if sees[i][j]]
                scores = keys[seen] @ (rotations[i] @ q[i, head]) / math.sqrt(self.head_dim)
                weights = torch.exp(scores - scores.max())
                out[i, head] = (weights / weights.sum()) @ v[seen, head]
        return out.flatten(1)

    def identity(self, index: int, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        layer: Any = self.model.identity_attention[index]
        asked = self.layer_norm(image, 1e-5) * layer.norm2.weight + layer.norm2.bias
        given = self.layer_norm(tokens, 1e-5) * layer.norm1.weight + layer.norm1.bias
        q = asked @ layer.to_q.weight.T
        inner = q.shape[1]
        k, v = given @ layer.to_kv.weight[:inner].T, given @ layer.to_kv.weight[inner:].T
        width = inner // layer.heads
        parts = []
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width)
            parts.append(torch.softmax(scores, dim=-1) @ v[:, part])
        return torch.cat(parts, dim=1) @ layer.to_out.weight.T

    @torch.no_grad()
    def sample(self, latents, t, tokens, pooled, condition, identity, guidance) -> torch.Tensor:
        def square(count):
            side = math.isqrt(count)
            return torch.tensor([[0.0, r, c] for r in range(side) for c in range(side)])

        grid, moved = square(len(latents)), square(len(condition))
        branch = self.model.config.condition
        moved[:, 1:] = moved[:, 1:] * branch.position_scale + (branch.position_scale - 1) / 2
        moved[:, 1:] += torch.tensor(branch.position_delta)
        positions = torch.cat([torch.zeros(len(tokens), 3), grid, moved])
        rotations = [self.rotation(position) for position in positions]
        names = ["text"] * len(tokens) + ["image"] * len(latents) + ["condition"] * len(condition)
        sees = [
            [not (branch.independent_condition and a == "condition" and b != "condition") for b in names]
            for a in names
        ]
        main, still = self.modulation(t, guidance, pooled), self.modulation(0.0, 1.0, pooled)
        x = {
            "text": self.linear("context_embedder", tokens),
            "image": self.linear("x_embedder", latents),
            "condition": self.linear("x_embedder", condition, adapted=True),
        }
        modulation = {"text": main, "image": main, "condition": still}
        used = 0
        for index in range(self.model.config.transformer.num_layers):
            base, q, k, v, gates = f"transformer_blocks.{index}", [], [], [], {}
            for name in x:
                context, adapted = name == "text", name == "condition"
                norm = "norm1_context" if context else "norm1"
                parts = self.linear(f"{base}.{norm}.linear", self.silu(modulation[name]), adapted).chunk(6)
                normed = self.layer_norm(x[name], 1e-6) * (1 + parts[1]) + parts[0]
                gates[name] = parts
                prefix = ("add_q_proj", "add_k_proj", "add_v_proj") if context else ("to_q", "to_k", "to_v")
                norms = ("norm_added_q", "norm_added_k") if context else ("norm_q", "norm_k")
                q.append(
                    self.heads_of(f"{base}.attn.{prefix[0]}", f"{base}.attn.{norms[0]}", normed, adapted)
                )
                k.append(
                    self.heads_of(f"{base}.attn.{prefix[1]}", f"{base}.attn.{norms[1]}", normed, adapted)
                )
                v.append(self.heads_of(f"{base}.attn.{prefix[2]}", None, normed, adapted))
            joined = self.attend(torch.cat(q), torch.cat(k), torch.cat(v), rotations, sees)
            for name, attended in zip(x, joined.split([len(part) for part in x.values()]), strict=True):
                context, adapted = name == "text", name == "condition"
                output = f"{base}.attn.to_add_out" if context else f"{base}.attn.to_out.0"
                _, _, gate, shift, scale, gate_ff = gates[name]
                hidden = x[name] + gate * self.linear(output, attended, adapted)
                ff = f"{base}.ff_context" if context else f"{base}.ff"
                inner = self.layer_norm(hidden, 1e-6) * (1 + scale) + shift
                inner = self.gelu(self.linear(f"{ff}.net.0.proj", inner, adapted))
                x[name] = hidden + gate_ff * self.linear(f"{ff}.net.2", inner, adapted)
            if index % self.model.config.identity.double_interval == 0:
                x["image"] = x["image"] + self.identity(used, identity, x["image"])
                used += 1
        for index in range(self.model.config.transformer.num_single_layers):
            base, q, k, v, rest = f"single_transformer_blocks.{index}", [], [], [], {}
            for name in x:
                adapted = name == "condition"
                shift, scale, gate = self.linear(
                    f"{base}.norm.linear", self.silu(modulation[name]), adapted
                ).chunk(3)
                normed = self.layer_norm(x[name], 1e-6) * (1 + scale) + shift
                rest[name] = gate, self.gelu(self.linear(f"{base}.proj_mlp", normed, adapted))
                q.append(self.heads_of(f"{base}.attn.to_q", f"{base}.attn.norm_q", normed, adapted))
                k.append(self.heads_of(f"{base}.attn.to_k", f"{base}.attn.norm_k", normed, adapted))
                v.append(self.heads_of(f"{base}.attn.to_v", None, normed, adapted))
            joined = self.attend(torch.cat(q), torch.cat(k), torch.cat(v), rotations, sees)
            for name, attended in zip(x, joined.split([len(part) for part in x.values()]), strict=True):
                gate, mlp = rest[name]
                both = torch.cat([attended, mlp], dim=1)
                x[name] = x[name] + gate * self.linear(f"{base}.proj_out", both, name == "condition")
            if index % self.model.config.identity.single_interval == 0:
                x["image"] = x["image"] + self.identity(used, identity, x["image"])
                used += 1
        scale, shift = self.linear("norm_out.linear", self.silu(main)).chunk(2)
        return self.linear("proj_out", self.layer_norm(x["image"], 1e-6) * (1 + scale) + shift)


# ---- tests


class Case(NamedTuple):
    """One shape of model, batch and grids."""

    layers: int
    singles: int
    batch: int
    delta: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    image_side: int = 4
    condition_side: int = 4
    independent: bool = False
    guided: bool = True
    alpha: int = 4
    intervals: tuple[int, int] = (1, 1)

    def config(self) -> SwapModelConfig:
        smoke = swap_config.smoke()
        sizes = {
            "num_layers": self.layers,
            "num_single_layers": self.singles,
            "guidance_embeds": self.guided,
        }
        double, single = self.intervals
        intervals = {"double_interval": double, "single_interval": single}
        return smoke.model_copy(
            update={
                "transformer": smoke.transformer.model_copy(update=sizes),
                "identity": smoke.identity.model_copy(update=intervals),
                "condition": ConditionBranchConfig(
                    position_delta=self.delta,
                    position_scale=self.scale,
                    independent_condition=self.independent,
                ),
                "lora": LoraConfig(rank=4, alpha=self.alpha),
            }
        )


def _inputs(model: SwapTransformer, batch: int, image: int = 4, condition: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    channels = model.config.transformer.in_channels
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "latents_BLC": draw(batch, image**2, channels),
        "timestep_B": torch.rand(batch, generator=generator),
        "text": model.prompts(torch.arange(batch) % 2 == 0),
        "condition_BLC": draw(batch, condition**2, channels),
        "identity_BTD": model.identity_encoder(draw(batch, model.config.identity.embedding_dim)).detach(),
    }


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case(1, 1, 1), torch.float32),
        (Case(2, 3, 3, guided=False), torch.float32),
        (Case(4, 9, 2, independent=True), torch.float32),
        (Case(2, 3, 2), torch.bfloat16),
    ],
    ids=str,
)
@torch.no_grad()
def test_without_condition_and_identity_it_is_stock_flux_to_the_bit(build_model, case, dtype, lora):
    model = build_model(case.config(), lora=lora).to(dtype)
    inputs = _inputs(model, case.batch)
    latents, text = inputs["latents_BLC"].to(dtype), inputs["text"]
    timestep = inputs["timestep_B"].to(dtype)
    stock = FluxTransformer2DModel(**model.config.transformer.model_dump(exclude={"text_tokens"})).to(dtype)
    state = {k.replace(".base_layer", ""): v for k, v in model.flux.state_dict().items() if ".lora_" not in k}
    stock.load_state_dict(state)
    expected = stock(
        hidden_states=latents,
        encoder_hidden_states=text.tokens_BTD,
        pooled_projections=text.pooled_BD,
        timestep=cast(torch.LongTensor, timestep),
        img_ids=torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)]),
        txt_ids=torch.zeros(text.tokens_BTD.shape[1], 3),
        guidance=torch.full((case.batch,), 2.5, dtype=dtype) if case.guided else None,
        return_dict=False,
    )
    ours = model(latents, timestep, text, guidance=2.5)
    assert ours.float().std() > 0.1
    assert torch.equal(ours, cast(tuple[torch.Tensor], expected)[0])


@pytest.mark.parametrize(
    "case",
    [
        Case(1, 1, 3),
        Case(1, 1, 1, independent=True, guided=False),
        Case(2, 3, 1, delta=(0.0, 4.0), scale=2.0, condition_side=2, guided=False, alpha=2),
        Case(2, 3, 2, scale=0.5, image_side=3, condition_side=5, independent=True, alpha=8),
        Case(4, 9, 2, delta=(-1.5, 3.0), scale=2.0, image_side=3, condition_side=2, intervals=(2, 4)),
        Case(4, 9, 1, image_side=3, condition_side=3, independent=True, alpha=2, intervals=(2, 4)),
    ],
    ids=str,
)
@torch.no_grad()
def test_all_branches_equal_the_equations_written_out(build_model, case):
    model = build_model(case.config(), lora=True)
    inputs = _inputs(model, case.batch, case.image_side, case.condition_side)
    ours = model(**inputs, guidance=3.0)
    assert ours.std() > 0.1
    naive, text = Naive(model), inputs["text"]
    for row in range(case.batch):
        expected = naive.sample(
            inputs["latents_BLC"][row],
            float(inputs["timestep_B"][row]),
            text.tokens_BTD[row],
            text.pooled_BD[row],
            inputs["condition_BLC"][row],
            inputs["identity_BTD"][row],
            3.0,
        )
        torch.testing.assert_close(ours[row], expected, rtol=1e-5, atol=1e-5)
