"""EVA02-CLIP's image tower: published names and sizes, and numbers against a straight-line implementation."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor

from models.identity.eva_clip import EvaClipVision, load_eva_clip
from models.identity.network_sizes import EvaClipConfig
from models.weight_files import WeightMismatch

SMALL = EvaClipConfig(
    image_size=56, width=64, layers=5, head_dim=16, embedding_dim=24, hidden_after=(1, 2, 4)
)

TEXT_TOWER_PARAMETERS = 123_650_304 + 1
"""CLIP's text tower of 12 layers and 768 channels, and the temperature; they are in the published file."""

PUBLISHED_BYTES = 856_461_210


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published tower, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 577, 1024),
        "patch_embed.proj.weight": (1024, 3, 14, 14),
        "patch_embed.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
        "head.weight": (768, 1024),
        "head.bias": (768,),
    }
    for block in range(24):
        own: dict[str, tuple[int, ...]] = {
            "attn.q_bias": (1024,),
            "attn.v_bias": (1024,),
            "attn.proj.bias": (1024,),
            "mlp.w1.weight": (2730, 1024),
            "mlp.w1.bias": (2730,),
            "mlp.w2.weight": (2730, 1024),
            "mlp.w2.bias": (2730,),
            "mlp.ffn_ln.weight": (2730,),
            "mlp.ffn_ln.bias": (2730,),
            "mlp.w3.weight": (1024, 2730),
            "mlp.w3.bias": (1024,),
        }
        own |= {f"attn.{name}.weight": (1024, 1024) for name in ("q_proj", "k_proj", "v_proj", "proj")}
        for norm in ("norm1", "norm2", "attn.inner_attn_ln"):
            own |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in own.items()}
    return shapes


def random_tower(seed: int) -> EvaClipVision:
    torch.manual_seed(seed)
    tower = EvaClipVision(SMALL).eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter.normal_(std=0.2)
    return tower


def straight_line(state: dict[str, Tensor], picture: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One picture (3, 56, 56) through the tower: 4 x 4 patches, 4 heads of 16, turns as complex numbers.

    A patch's position on the training grid of 16 is 0, 4, 8 or 12; the first four pairs of a head turn with
    the row, the others with the column.
    """
    patches = picture.unfold(1, 14, 14).unfold(2, 14, 14).permute(1, 2, 0, 3, 4).reshape(16, -1)
    kernel = state["patch_embed.proj.weight"].reshape(64, -1)
    tokens = patches @ kernel.T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"][0], tokens]) + state["pos_embed"][0]
    speeds = torch.tensor([1.0, 10**-1.0, 10**-2.0, 10**-3.0])
    angles = torch.stack(
        [torch.cat([4.0 * row * speeds, 4.0 * column * speeds]) for row in range(4) for column in range(4)]
    )
    turns = torch.polar(torch.ones(17, 8), torch.cat([torch.zeros(1, 8), angles]))

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return centred * scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    hidden = []
    for block in range(5):
        if block in (1, 2, 4):
            hidden.append(x)
        own = f"blocks.{block}."
        y = norm(x, f"{own}norm1")
        query = y @ state[f"{own}attn.q_proj.weight"].T + state[f"{own}attn.q_bias"]
        key = y @ state[f"{own}attn.k_proj.weight"].T
        value = y @ state[f"{own}attn.v_proj.weight"].T + state[f"{own}attn.v_bias"]
        heads = []
        for head in range(4):
            part = slice(16 * head, 16 * head + 16)
            turned = [
                torch.view_as_real(
                    torch.view_as_complex(side[:, part].reshape(17, 8, 2).contiguous()) * turns
                ).reshape(17, 16)
                for side in (query, key)
            ]
            weights = torch.softmax(turned[0] @ turned[1].T / 4.0, dim=-1)
            heads.append(weights @ value[:, part])
        y = norm(torch.cat(heads, dim=1), f"{own}attn.inner_attn_ln")
        x = x + y @ state[f"{own}attn.proj.weight"].T + state[f"{own}attn.proj.bias"]
        y = norm(x, f"{own}norm2")
        gate = y @ state[f"{own}mlp.w1.weight"].T + state[f"{own}mlp.w1.bias"]
        linear = y @ state[f"{own}mlp.w2.weight"].T + state[f"{own}mlp.w2.bias"]
        y = norm(gate * torch.sigmoid(gate) * linear, f"{own}mlp.ffn_ln")
        x = x + y @ state[f"{own}mlp.w3.weight"].T + state[f"{own}mlp.w3.bias"]
    return norm(x, "norm")[0] @ state["head.weight"].T + state["head.bias"], hidden


def test_full_size_has_the_published_tensors() -> None:
    with torch.device("meta"):
        tower = EvaClipVision()
    found = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    assert found == published_shapes()
    assert len(found) == 512
    count = sum(parameter.numel() for parameter in tower.parameters())
    assert count == 304_432_832
    # With the text tower, in half precision, this is the published file up to its rotary tables and names.
    assert 0 < PUBLISHED_BYTES - 2 * (count + TEXT_TOWER_PARAMETERS) < 300_000
    assert tower.config.tokens == 577
    assert tower.config.hidden_after == (4, 8, 12, 16, 20)


def test_equals_the_straight_line() -> None:
    tower = random_tower(0)
    pictures = torch.randn(3, 3, 56, 56)
    features = tower(pictures)
    assert features.embedding_BE.shape == (3, 24)
    assert [tuple(state.shape) for state in features.hidden] == [(3, 17, 64)] * 3
    for row, picture in enumerate(pictures):
        embedding, hidden = straight_line(tower.state_dict(), picture)
        scale = embedding.abs().max()
        assert ((features.embedding_BE[row] - embedding).abs().max() / scale) < 1e-5
        for ours, expected in zip(features.hidden, hidden, strict=True):
            torch.testing.assert_close(ours[row], expected, rtol=1e-4, atol=1e-4)


def test_batch_equals_single() -> None:
    tower = random_tower(1)
    pictures = torch.randn(4, 3, 56, 56)
    together = tower(pictures)
    for row in range(4):
        alone = tower(pictures[row : row + 1])
        assert functional.cosine_similarity(together.embedding_BE[row], alone.embedding_BE[0], 0) > 1 - 1e-6
        scale = alone.embedding_BE.abs().max()
        assert (together.embedding_BE[row] - alone.embedding_BE[0]).abs().max() / scale < 1e-5
    assert not torch.allclose(together.embedding_BE[0], together.embedding_BE[1], rtol=0.1)


def test_half_precision_stays_near() -> None:
    tower = random_tower(2)
    pictures = torch.randn(2, 3, 56, 56)
    exact = tower(pictures).embedding_BE
    half = tower.to(torch.bfloat16)(pictures).embedding_BE
    assert half.dtype == torch.bfloat16
    assert functional.cosine_similarity(exact, half.float()).min() > 0.99


def test_published_file_loads_and_others_do_not(tmp_path: Path) -> None:
    tower = random_tower(3)
    state = {f"visual.{name}": tensor.half() for name, tensor in tower.state_dict().items()}
    for place in ("", "blocks.0.attn.", "blocks.4.attn."):
        state[f"visual.{place}rope.freqs_cos"] = torch.ones(16, 16)
        state[f"visual.{place}rope.freqs_sin"] = torch.zeros(16, 16)
    state["text.token_embedding.weight"] = torch.zeros(7, 3)
    state["logit_scale"] = torch.zeros(())
    path = tmp_path / "eva.safetensors"
    save_file(state, path)
    pictures = torch.randn(2, 3, 56, 56)
    expected = random_tower(3)
    expected.load_state_dict({name: t.half().float() for name, t in tower.state_dict().items()})
    loaded = load_eva_clip(path, SMALL)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded(pictures).embedding_BE, expected(pictures).embedding_BE)
    assert load_eva_clip(path, SMALL, dtype=torch.bfloat16).cls_token.dtype == torch.bfloat16

    del state["visual.blocks.2.mlp.w3.bias"]
    state["visual.pos_embed"] = torch.zeros(1, 26, 64)
    save_file(state, path)
    with pytest.raises(WeightMismatch, match=r"blocks\.2\.mlp\.w3\.bias.*pos_embed is \(1, 26, 64\)"):
        load_eva_clip(path, SMALL)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_eva_clip(tmp_path / "absent.safetensors")


def test_other_inputs_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 56, 56\)"):
        random_tower(4)(torch.zeros(1, 3, 70, 70))
    for wrong in ({"image_size": 300}, {"width": 1000}, {"hidden_after": (24,)}):
        with pytest.raises(ValueError, match="EvaClipConfig"):
            EvaClipConfig.model_validate(wrong)
