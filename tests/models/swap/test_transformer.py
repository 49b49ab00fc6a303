from __future__ import annotations

import math
import re
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

from models.swap import config as swap_config
from models.swap.condition_branch import image_position_ids
from models.swap.config import ConditionBranchConfig
from models.swap.text import TextEmbedding
from models.swap.transformer import SwapTransformer

BATCH, TOKENS = 3, 16


def _inputs(model: SwapTransformer, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    channels = model.config.transformer.in_channels
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    embedding = draw(BATCH, model.config.identity.embedding_dim)
    return {
        "latents_BLC": draw(BATCH, TOKENS, channels),
        "timestep_B": torch.rand(BATCH, generator=generator),
        "text": model.prompts(torch.tensor([True, False, True])),
        "condition_BLC": draw(BATCH, TOKENS, channels),
        "identity_BTD": model.identity_encoder(embedding).detach(),
    }


# ---- an independent implementation: one sample, one head, one token pair at a time


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
        parts = []
        for name, x in (
            ("timestep_embedder", self.sinusoid(t * 1000)),
            ("guidance_embedder", self.sinusoid(guidance * 1000)),
            ("text_embedder", pooled),
        ):
            hidden = self.silu(self.linear(f"time_text_embed.{name}.linear_1", x))
            parts.append(self.linear(f"time_text_embed.{name}.linear_2", hidden))
        return parts[0] + parts[1] + parts[2]

    def rotate(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        out, start = x.clone(), 0
        for axis, width in enumerate(self.model.config.transformer.axes_dims_rope):
            for pair in range(width // 2):
                angle = float(position[axis]) / 10000 ** (2 * pair / width)
                a, b = x[start + 2 * pair], x[start + 2 * pair + 1]
                out[start + 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
                out[start + 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
            start += width
        return out

    def heads_of(self, name: str, norm: str | None, x: torch.Tensor, adapted: bool) -> torch.Tensor:
        y = self.linear(name, x, adapted).reshape(len(x), self.heads, self.head_dim)
        if norm is not None:
            y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-6) * self.weights[f"{norm}.weight"]
        return y

    def attend(self, q, k, v, positions, sees) -> torch.Tensor:
        out = torch.zeros_like(v)
        for head in range(self.heads):
            queries = [self.rotate(q[i, head], positions[i]) for i in range(len(q))]
            keys = [self.rotate(k[i, head], positions[i]) for i in range(len(q))]
            for i in range(len(q)):
                scores = torch.stack(
                    [(queries[i] * keys[j]).sum() / math.sqrt(self.head_dim) for j in range(len(q))]
                )
                scores = torch.where(sees[i], scores, -torch.inf)
                weights = torch.exp(scores - scores.max())
                out[i, head] = (weights / weights.sum()) @ v[:, head]
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
        side = math.isqrt(len(latents))
        grid = torch.tensor([[0.0, r, c] for r in range(side) for c in range(side)])
        branch = self.model.config.condition
        moved = grid.clone()
        moved[:, 1:] = moved[:, 1:] * branch.position_scale + (branch.position_scale - 1) / 2
        moved[:, 1:] += torch.tensor(branch.position_delta)
        positions = torch.cat([torch.zeros(len(tokens), 3), grid, moved])
        names = ["text"] * len(tokens) + ["image"] * len(latents) + ["condition"] * len(condition)
        sees = torch.tensor(
            [
                [not (branch.independent_condition and a == "condition" and b != "condition") for b in names]
                for a in names
            ]
        )
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
            joined = self.attend(torch.cat(q), torch.cat(k), torch.cat(v), positions, sees)
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
            joined = self.attend(torch.cat(q), torch.cat(k), torch.cat(v), positions, sees)
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


def _stock(model: SwapTransformer, inputs: dict[str, Any], guidance: float) -> torch.Tensor:
    text: TextEmbedding = inputs["text"]
    stock = FluxTransformer2DModel(**model.config.transformer.model_dump(exclude={"text_tokens"}))
    weights = {
        key.replace(".base_layer", ""): value
        for key, value in model.flux.state_dict().items()
        if ".lora_" not in key
    }
    stock.load_state_dict(weights)
    out = stock(
        hidden_states=inputs["latents_BLC"],
        encoder_hidden_states=text.tokens_BTD,
        pooled_projections=text.pooled_BD,
        timestep=cast(torch.LongTensor, inputs["timestep_B"]),
        img_ids=image_position_ids(4, 4),
        txt_ids=torch.zeros(text.tokens_BTD.shape[1], 3),
        guidance=torch.full((BATCH,), guidance),
        return_dict=False,
    )
    return cast(tuple[torch.Tensor], out)[0]


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_image_only_is_bit_identical_to_stock_flux(build_model, lora):
    model = build_model(swap_config.tiny(), lora=lora)
    inputs = _inputs(model)
    ours = model(inputs["latents_BLC"], inputs["timestep_B"], inputs["text"], guidance=2.5)
    assert torch.equal(ours, _stock(model, inputs, 2.5))


@pytest.mark.parametrize(
    "branch",
    [
        ConditionBranchConfig(),
        ConditionBranchConfig(position_delta=(0.0, 4.0), position_scale=2.0),
        ConditionBranchConfig(independent_condition=True),
    ],
)
@torch.no_grad()
def test_all_branches_equal_a_naive_implementation(build_model, branch):
    config = swap_config.smoke()
    config = config.model_copy(
        update={
            "condition": branch,
            "transformer": config.transformer.model_copy(update={"num_layers": 2, "num_single_layers": 3}),
            "identity": config.identity.model_copy(update={"double_interval": 2, "single_interval": 2}),
        }
    )
    model = build_model(config, lora=True)
    inputs = _inputs(model)
    ours = model(**inputs, guidance=1.5)
    naive = Naive(model)
    row = 1
    expected = naive.sample(
        inputs["latents_BLC"][row],
        float(inputs["timestep_B"][row]),
        inputs["text"].tokens_BTD[row],
        inputs["text"].pooled_BD[row],
        inputs["condition_BLC"][row],
        inputs["identity_BTD"][row],
        1.5,
    )
    assert ours.std() > 0.1
    torch.testing.assert_close(ours[row], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_part_changes_the_output_and_lora_needs_the_condition(build_model):
    model = build_model(lora=True)
    inputs = _inputs(model)
    full = model(**inputs)
    for name in ("condition_BLC", "identity_BTD"):
        assert not torch.allclose(full, model(**{**inputs, name: None}), atol=1e-3)
    alone = {**inputs, "condition_BLC": None}
    before = model(**alone)
    for parameter in model.lora_parameters().values():
        parameter.data.mul_(3.0)
    assert torch.equal(before, model(**alone))
    assert not torch.allclose(full, model(**inputs), atol=1e-4)


def test_targets_and_gradients_of_the_adapters(build_model):
    model = build_model(swap_config.tiny(), lora=True)
    assert len(model.lora_parameters()) == 2 * 25
    model(**_inputs(model)).square().mean().backward()
    last = "single_transformer_blocks.2."
    discarded = {f"{last}{name}" for name in ("attn.to_q", "proj_mlp", "proj_out")}
    for name, parameter in model.lora_parameters().items():
        module = name.split(".lora_")[0]
        # The last block's condition output goes nowhere, so what only feeds it gets no gradient.
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved == (module not in discarded), name


def test_flux_krea_on_the_meta_device_has_the_published_sizes():
    config = swap_config.flux_krea()
    with torch.device("meta"):
        model = SwapTransformer(config)
    assert len(model.identity_attention) == 20
    assert sum(p.numel() for p in model.flux.parameters()) == 11_901_408_320
    targets = [
        (module.in_features, module.out_features)
        for name, module in model.flux.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(config.lora.targets, name)
    ]
    assert len(targets) == 343
    assert sum(config.lora.rank * (a + b) for a, b in targets) == 231_804_928


def test_checkpointed_gradients_are_the_same(build_model):
    gradients = []
    for checkpointing in (False, True):
        model = build_model(lora=True)
        model.gradient_checkpointing = checkpointing
        model(**_inputs(model)).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.lora_parameters().items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@torch.no_grad()
def test_identity_encoder_null_and_errors(build_model):
    model = build_model()
    encoder = model.identity_encoder
    torch.testing.assert_close(encoder.unconditional(2), encoder(torch.zeros(2, 128)))
    generator = torch.Generator().manual_seed(3)
    people = torch.arange(200).repeat_interleave(5)
    pose = torch.randn(1000, 128, generator=generator) @ torch.randn(128, 128, generator=generator) * 0.05
    cloud = torch.randn(200, 128, generator=generator)[people] * 0.1 + pose + 0.7
    encoder.fit_whitening(cloud, people, floor=0.0)
    whitened = (cloud - encoder.mean) @ encoder.whitening
    assert whitened.mean().abs() < 1e-2
    centres = torch.stack([whitened[people == person].mean(dim=0) for person in range(200)])
    scatter = whitened - centres[people]
    covariance = scatter.T @ scatter / (1000 - 200)
    torch.testing.assert_close(covariance, torch.eye(128), atol=2e-2, rtol=0)
    assert torch.isfinite(encoder(torch.zeros(1, 128))).all()
    with pytest.raises(ValueError, match="two photos or more"):
        encoder.fit_whitening(cloud, torch.arange(1000))
    with pytest.raises(ValueError, match="512 values, this model takes 128"):
        encoder(torch.zeros(1, 512))


@torch.no_grad()
def test_ready_tokens_pass_through_and_zero_means_the_stored_unconditional(build_model):
    config = swap_config.smoke()
    identity = config.identity.model_copy(update={"encoder": "tokens", "embedding_dim": 64})
    model = build_model(config.model_copy(update={"identity": identity}))
    encoder = model.identity_encoder
    encoder.unconditional_tokens.fill_(0.5)
    tokens = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0))
    tokens[1] = 0
    out = encoder(tokens)
    assert torch.equal(out[0], tokens[0])
    assert torch.equal(out[1], torch.full((2, 32), 0.5))
    assert torch.equal(encoder.unconditional(1)[0], torch.full((2, 32), 0.5))


def test_a_token_count_that_is_no_square_needs_ids(build_model):
    model = build_model()
    with pytest.raises(ValueError, match="15 tokens make no square grid"):
        model(torch.zeros(1, 15, 48), torch.zeros(1), model.prompts.prompt(1))
