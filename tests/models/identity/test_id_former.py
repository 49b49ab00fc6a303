"""PuLID's ID encoder: published names and sizes, and numbers against a straight-line implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.identity.id_former import IdFormer, load_id_former
from models.identity.network_sizes import IdFormerConfig
from models.weight_files import WeightMismatch

SMALL = IdFormerConfig(
    dim=24,
    depth=4,
    heads=3,
    head_dim=8,
    queries=5,
    id_tokens=2,
    id_dim=14,
    feature_dim=12,
    scales=2,
    output_dim=10,
)

CROSS_ATTENTION_PARAMETERS = 20 * 20_981_760
"""The swap transformer's part of the published file: 20 modules of 7 tensors."""


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published encoder, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, 32, 1024), "proj_out": (1024, 2048)}
    for mapping in ("id_embedding_mapping", *(f"mapping_{scale}" for scale in range(5))):
        outputs, inputs = (5120, 1280) if mapping.startswith("id") else (1024, 1024)
        for layer, shape in ((0, (1024, inputs)), (3, (1024, 1024)), (6, (outputs, 1024))):
            shapes |= {f"{mapping}.{layer}.weight": shape, f"{mapping}.{layer}.bias": shape[:1]}
        shapes |= {f"{mapping}.{layer}.{kind}": (1024,) for layer in (1, 4) for kind in ("weight", "bias")}
    for layer in range(10):
        norms = [f"0.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")]
        own: dict[str, tuple[int, ...]] = dict.fromkeys([*norms, "1.0.weight", "1.0.bias"], (1024,))
        own |= {
            "0.to_q.weight": (1024, 1024),
            "0.to_kv.weight": (2048, 1024),
            "0.to_out.weight": (1024, 1024),
        }
        own |= {"1.1.weight": (4096, 1024), "1.3.weight": (1024, 4096)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def random_encoder(seed: int) -> IdFormer:
    torch.manual_seed(seed)
    encoder = IdFormer(SMALL).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.normal_(std=0.3)
    return encoder


def random_inputs(batch: int) -> tuple[Tensor, list[Tensor]]:
    return torch.randn(batch, 14), [torch.randn(batch, 7, 12) for _ in range(2)]


def straight_line(state: dict[str, Tensor], identity: Tensor, hidden: list[Tensor]) -> Tensor:
    """One identity (14,) and two hidden states (7, 12) through the encoder."""

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    def mapping(values: Tensor, name: str) -> Tensor:
        for layer in (0, 3):
            values = values @ state[f"{name}.{layer}.weight"].T + state[f"{name}.{layer}.bias"]
            values = norm(values, f"{name}.{layer + 1}")
            values = torch.where(values > 0, values, 0.01 * values)
        return values @ state[f"{name}.6.weight"].T + state[f"{name}.6.bias"]

    id_tokens = mapping(identity, "id_embedding_mapping").reshape(2, 24)
    latents = torch.cat([state["latents"][0], id_tokens])
    for layer in range(4):
        context = torch.cat([id_tokens, mapping(hidden[layer // 2], f"mapping_{layer // 2}")])
        own = f"layers.{layer}."
        asking = norm(latents, f"{own}0.norm2")
        answering = torch.cat([norm(context, f"{own}0.norm1"), asking])
        query = asking @ state[f"{own}0.to_q.weight"].T
        key = answering @ state[f"{own}0.to_kv.weight"][:24].T
        value = answering @ state[f"{own}0.to_kv.weight"][24:].T
        heads = [
            torch.softmax(query[:, part] @ key[:, part].T / 8**0.5, dim=-1) @ value[:, part]
            for part in (slice(0, 8), slice(8, 16), slice(16, 24))
        ]
        latents = latents + torch.cat(heads, dim=1) @ state[f"{own}0.to_out.weight"].T
        inner = norm(latents, f"{own}1.0") @ state[f"{own}1.1.weight"].T
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        latents = latents + inner @ state[f"{own}1.3.weight"].T
    return latents[:5] @ state["proj_out"]


def test_full_size_has_the_published_tensors() -> None:
    with torch.device("meta"):
        encoder = IdFormer()
    found = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert found == published_shapes()
    count = sum(tensor.numel() for tensor in encoder.state_dict().values())
    assert count == 151_398_400
    # Together with the cross-attentions: the published file's 312 tensors and 571,033,600 numbers.
    assert len(found) + 20 * 7 == 312
    assert count + CROSS_ATTENTION_PARAMETERS == 571_033_600


def test_equals_the_straight_line() -> None:
    encoder = random_encoder(0)
    identity_BI, hidden = random_inputs(3)
    tokens = encoder(identity_BI, hidden)
    assert tokens.shape == (3, 5, 10)
    for row in range(3):
        expected = straight_line(encoder.state_dict(), identity_BI[row], [state[row] for state in hidden])
        assert (tokens[row] - expected).abs().max() / expected.abs().max() < 1e-5


def test_batch_equals_single() -> None:
    encoder = random_encoder(1)
    identity_BI, hidden = random_inputs(4)
    together = encoder(identity_BI, hidden)
    for row in range(4):
        alone = encoder(identity_BI[row : row + 1], [state[row : row + 1] for state in hidden])[0]
        assert (together[row] - alone).abs().max() / alone.abs().max() < 1e-5
    assert not torch.allclose(together[0], together[1], rtol=0.1)


def test_no_identity_is_the_encoder_at_zero_and_not_zero_tokens() -> None:
    encoder = random_encoder(2)
    expected = straight_line(encoder.state_dict(), torch.zeros(14), [torch.zeros(7, 12)] * 2)
    tokens = encoder.unconditional(7)[0]
    assert (tokens - expected).abs().max() / expected.abs().max() < 1e-5
    assert tokens.abs().max() > 0.1


def test_published_file_loads_and_others_do_not(tmp_path: Path) -> None:
    encoder = random_encoder(3)
    state = {f"pulid_encoder.{name}": tensor.bfloat16() for name, tensor in encoder.state_dict().items()}
    state["pulid_ca.0.to_q.weight"] = torch.zeros(4, 4)
    path = tmp_path / "pulid.safetensors"
    save_file(state, path)
    loaded = load_id_former(path, SMALL)
    assert loaded.latents.dtype == torch.float32
    rounded = random_encoder(3)
    rounded.load_state_dict(
        {name: tensor.bfloat16().float() for name, tensor in encoder.state_dict().items()}
    )
    identity_BI, hidden = random_inputs(2)
    torch.testing.assert_close(loaded(identity_BI, hidden), rounded(identity_BI, hidden))
    assert load_id_former(path, SMALL, dtype=torch.bfloat16)(identity_BI, hidden).dtype == torch.bfloat16

    state["pulid_encoder.mapping_2.0.weight"] = torch.zeros(12, 12)
    del state["pulid_encoder.proj_out"]
    save_file(state, path)
    with pytest.raises(WeightMismatch, match=r"missing: proj_out.*unknown: mapping_2\.0\.weight"):
        load_id_former(path, SMALL)


def test_other_inputs_and_sizes_are_refused() -> None:
    encoder = random_encoder(4)
    identity_BI, hidden = random_inputs(2)
    with pytest.raises(ValueError, match=r"identities \(B, 14\)"):
        encoder(torch.zeros(2, 15), hidden)
    with pytest.raises(ValueError, match="2 hidden states"):
        encoder(identity_BI, hidden[:1])
    with pytest.raises(ValueError, match="2 hidden states"):
        encoder(identity_BI[:1], hidden)
    with pytest.raises(ValueError, match="evenly"):
        IdFormerConfig(depth=7)
