"""The denoiser's size and names at full scale, and its arithmetic against a straight-line reference."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from models.diffface import constants
from models.diffface.config import DenoiserConfig, published, tiny
from models.diffface.denoiser import Denoiser
from models.diffface.denoiser_blocks import ResidualBlock, SelfAttention, timestep_embedding

torch.set_num_threads(1)

DOWN, UP = {"input_blocks.3.0."}, {"output_blocks.2.2."}
"""Residual blocks of the denoiser that change the side, by where they stand."""


@pytest.fixture
def denoiser(small_config: DenoiserConfig) -> Denoiser:
    """Two residual blocks a level; nothing zero, so that every branch shows."""
    torch.manual_seed(0)
    denoiser = Denoiser(small_config.model_copy(update={"num_res_blocks": 2})).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return denoiser.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 8, generator=generator)
    identity = functional.normalize(torch.randn(3, 5, generator=generator))
    return x, torch.tensor([0, 747, 999]), identity


def group_norm(x: Tensor, state: dict[str, Tensor], prefix: str, groups: int) -> Tensor:
    """By mean and variance of each group, then one factor and summand per channel."""
    parts = x.reshape(len(x), groups, -1)
    spread = parts.var(dim=2, correction=0, keepdim=True)
    plain = ((parts - parts.mean(dim=2, keepdim=True)) / (spread + 1e-5).sqrt()).reshape(x.shape)
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    return plain * state[f"{prefix}weight"].view(per_channel) + state[f"{prefix}bias"].view(per_channel)


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def linear(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    return x @ state[f"{prefix}weight"].T + state[f"{prefix}bias"]


def convolution(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    weight = state[f"{prefix}weight"]
    return functional.conv2d(x, weight, state[f"{prefix}bias"], padding=weight.shape[-1] // 2)


def residual(
    x: Tensor, embedding: Tensor, state: dict[str, Tensor], prefix: str, groups: int, side: str = "keep"
) -> Tensor:
    """The published residual block, line by line."""
    hidden = silu(group_norm(x, state, f"{prefix}in_layers.0.", groups))
    if side == "down":
        halves = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = sum(halves, torch.zeros(())) / 4
        halves = [hidden[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        hidden = sum(halves, torch.zeros(())) / 4
    if side == "up":
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        hidden = hidden.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    hidden = convolution(hidden, state, f"{prefix}in_layers.2.")
    film = linear(silu(embedding), state, f"{prefix}emb_layers.1.")
    channels = film.shape[1] // 2
    hidden = group_norm(hidden, state, f"{prefix}out_layers.0.", groups)
    hidden = hidden * (1 + film[:, :channels, None, None]) + film[:, channels:, None, None]
    hidden = convolution(silu(hidden), state, f"{prefix}out_layers.3.")
    if f"{prefix}skip_connection.weight" in state:
        x = convolution(x, state, f"{prefix}skip_connection.")
    return x + hidden


def attention(x: Tensor, state: dict[str, Tensor], prefix: str, groups: int, head: int) -> Tensor:
    """One head after another; their channels of `qkv` stand together, query, key, value."""
    batch, channels = x.shape[:2]
    flat = group_norm(x.reshape(batch, channels, -1), state, f"{prefix}norm.", groups)
    qkv = torch.einsum("oc,bcl->bol", state[f"{prefix}qkv.weight"][:, :, 0], flat)
    qkv = qkv + state[f"{prefix}qkv.bias"][None, :, None]
    heads = []
    for start in range(0, 3 * channels, 3 * head):
        query, key, value = (qkv[:, start + part * head : start + (part + 1) * head] for part in range(3))
        scores = torch.einsum("bcq,bck->bqk", query, key) / math.sqrt(head)
        heads.append(torch.einsum("bqk,bck->bcq", scores.softmax(dim=2), value))
    mixed = torch.einsum("oc,bcl->bol", state[f"{prefix}proj_out.weight"][:, :, 0], torch.cat(heads, dim=1))
    return x + (mixed + state[f"{prefix}proj_out.bias"][None, :, None]).reshape(x.shape)


def reference(denoiser: Denoiser, x: Tensor, timestep: Tensor, identity: Tensor) -> Tensor:
    """The whole network from its state dict, by the published names alone."""
    state, config = denoiser.state_dict(), denoiser.config
    half = config.model_channels // 2
    angles = timestep[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding = linear(silu(linear(waves, state, "time_embed.0.")), state, "time_embed.2.")
    embedding = embedding + linear(silu(linear(identity, state, "id_embed.0.")), state, "id_embed.2.")

    def stage(hidden: Tensor, prefix: str) -> Tensor:
        block = 0
        while any(name.startswith(f"{prefix}{block}.") for name in state):
            here = f"{prefix}{block}."
            if f"{here}in_layers.0.weight" in state:
                side = "down" if here in DOWN else "up" if here in UP else "keep"
                hidden = residual(hidden, embedding, state, here, config.norm_groups, side)
            elif f"{here}qkv.weight" in state:
                hidden = attention(hidden, state, here, config.norm_groups, config.num_head_channels)
            else:
                hidden = convolution(hidden, state, here)
            block += 1
        return hidden

    kept: list[Tensor] = []
    hidden = x
    for number in range(len(denoiser.input_blocks)):
        hidden = stage(hidden, f"input_blocks.{number}.")
        kept.append(hidden)
    hidden = stage(hidden, "middle_block.")
    for number in range(len(denoiser.output_blocks)):
        hidden = stage(torch.cat([hidden, kept.pop()], dim=1), f"output_blocks.{number}.")
    return convolution(silu(group_norm(hidden, state, "out.0.", config.norm_groups)), state, "out.2.")


def test_the_published_network_has_the_published_size_and_names() -> None:
    with torch.device("meta"):
        denoiser = Denoiser(published())
    shapes = {name: tuple(value.shape) for name, value in denoiser.state_dict().items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    identity = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("id_embed."))
    assert total == constants.DENOISER_PARAMETERS == 554_388_998
    assert total - identity == constants.ADM_PARAMETERS == 552_814_086
    attending = [name for name, module in denoiser.named_modules() if isinstance(module, SelfAttention)]
    expected = [f"input_blocks.{stage}.1" for stage in (10, 11, 13, 14, 16, 17)]
    expected += ["middle_block.1", *(f"output_blocks.{stage}.1" for stage in range(9))]
    assert attending == expected
    assert len(attending) == constants.ATTENTION_BLOCKS == 16
    resampling = {
        name: module.resample
        for name, module in denoiser.named_modules()
        if isinstance(module, ResidualBlock) and module.resample != "keep"
    }
    downs = {f"input_blocks.{stage}.0": "down" for stage in (3, 6, 9, 12, 15)}
    ups = {f"output_blocks.{stage}.{2 if stage < 9 else 1}": "up" for stage in (2, 5, 8, 11, 14)}
    assert resampling == downs | ups
    for name, shape in {
        "time_embed.0.weight": (1024, 256),
        "id_embed.0.weight": (1024, 512),
        "id_embed.2.bias": (1024,),
        "input_blocks.0.0.weight": (256, 3, 3, 3),
        "input_blocks.7.0.skip_connection.weight": (512, 256, 1, 1),
        "input_blocks.10.1.qkv.weight": (1536, 512, 1),
        "input_blocks.17.0.emb_layers.1.weight": (2048, 1024),
        "middle_block.1.proj_out.weight": (1024, 1024, 1),
        "output_blocks.0.0.in_layers.2.weight": (1024, 2048, 3, 3),
        "output_blocks.17.0.out_layers.3.weight": (256, 256, 3, 3),
        "out.2.weight": (6, 256, 3, 3),
    }.items():
        assert shapes[name] == shape, name


def test_the_tiny_network_fits_its_budget() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Denoiser(tiny()).parameters())
    assert count == 1_909_422
    assert 2 * count < 4.5e6


def test_step_embedding_is_cosines_then_sines() -> None:
    found = timestep_embedding(torch.tensor([0, 747]), 4)
    wanted = [[1, 1, 0, 0], [math.cos(747), math.cos(7.47), math.sin(747), math.sin(7.47)]]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["keep", "down", "up"])
@pytest.mark.parametrize("channels_out", [8, 16])
def test_residual_block(side: str, channels_out: int) -> None:
    torch.manual_seed(2)
    block = ResidualBlock(8, channels_out, 12, 4, resample=side)  # pyright: ignore[reportArgumentType] - of a list
    x, embedding = torch.randn(2, 8, 6, 6), torch.randn(2, 12)
    assert not block.get_parameter("out_layers.3.weight").any()
    torch.nn.init.normal_(block.get_parameter("out_layers.3.weight"))
    torch.nn.init.normal_(block.get_parameter("in_layers.0.weight"))
    state = dict(block.state_dict())
    torch.testing.assert_close(
        block(x, embedding), residual(x, embedding, state, "", 4, side), atol=1e-5, rtol=1e-5
    )


def test_self_attention_of_two_heads() -> None:
    torch.manual_seed(3)
    block = SelfAttention(16, 8, 4)
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(block(x), x), "a new block is silent"
    torch.nn.init.normal_(block.proj_out.weight)
    torch.nn.init.normal_(block.qkv.weight)
    wanted = attention(x, dict(block.state_dict()), "", 4, 8)
    torch.testing.assert_close(block(x), wanted, atol=1e-4, rtol=1e-4)


def test_the_whole_network(denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    denoiser = denoiser.double()
    x, timestep, identity = inputs
    found = denoiser(x.double(), timestep, identity.double())
    wanted = reference(denoiser, x.double(), timestep.double(), identity.double())
    assert found.shape == (3, 6, 8, 8)
    # the sinusoids are float32, everything else double
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
    still = denoiser(x.double(), torch.zeros(3), identity.double())
    torch.testing.assert_close(
        still, reference(denoiser, x.double(), torch.zeros(3).double(), identity.double()), atol=1e-10, rtol=0
    )


def test_a_batch_is_its_images(denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, timestep, identity = inputs
    together = denoiser(x, timestep, identity)
    singles = [denoiser(x[i : i + 1], timestep[i : i + 1], identity[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(singles), atol=1e-5, rtol=1e-5)


def test_identity_and_step_both_count(denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, timestep, identity = inputs
    answer = denoiser(x, timestep, identity)
    assert (denoiser(x, timestep, -identity) - answer).abs().amax() > 0.01
    assert (denoiser(x, timestep - timestep, identity) - answer)[1:].abs().amax() > 0.01


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_only_the_torso_is_half(name: str, denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    half = Denoiser(denoiser.config.model_copy(update={"torso_dtype": name})).eval()
    half.load_state_dict(denoiser.state_dict())
    for key, value in half.state_dict().items():
        torso = key.startswith(("input_blocks.", "middle_block.", "output_blocks."))
        one_of_norms = any(part in key for part in ("in_layers.0.", "out_layers.0.", "norm.", "emb_layers."))
        expected = getattr(torch, name) if torso and not one_of_norms else torch.float32
        assert value.dtype == expected, key
    found, wanted = half(*inputs), denoiser(*inputs)
    assert found.dtype == torch.float32
    error = (found - wanted).abs().mean() / wanted.abs().mean()
    assert 0 < error < (0.03 if name == "bfloat16" else 0.01)


def test_channels_last_and_a_whole_network_in_bfloat16(
    denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    wanted = denoiser(*inputs)
    last = denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch has it, its stub not
    x = inputs[0].contiguous(memory_format=torch.channels_last)
    assert last.get_parameter("input_blocks.1.0.in_layers.2.weight").is_contiguous(
        memory_format=torch.channels_last
    )
    torch.testing.assert_close(last(x, *inputs[1:]), wanted, atol=1e-5, rtol=1e-5)
    coarse = denoiser.to(torch.bfloat16)(*inputs)
    assert coarse.dtype == torch.float32
    assert (coarse - wanted).abs().mean() < 0.05 * wanted.abs().mean()


def test_a_gradient_reaches_the_image_without_any_of_the_weights(
    denoiser: Denoiser,
    inputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    x = inputs[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser(x, *inputs[1:])[1].square().sum(), x)
    assert (gradient[1] != 0).all()
    assert not gradient[[0, 2]].any(), "of other rows nothing arrives"
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_what_does_not_fit_is_refused(denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, timestep, identity = inputs
    with pytest.raises(ValueError, match=r"takes \(B, 3, 8, 8\) images, got \(3, 3, 4, 4\)"):
        denoiser(x[:, :, ::2, ::2], timestep, identity)
    with pytest.raises(ValueError, match=r"3 images need 3 timesteps and \(3, 5\) identities"):
        denoiser(x, timestep, identity[:1])
    for wrong, told in (
        ({"image_size": 9}, "cannot be halved 1 times"),
        ({"model_channels": 10}, "no multiple of norm_groups 4"),
        ({"attention_resolutions": (5,)}, "are no side of a level"),
        ({"num_head_channels": 3}, "no multiple of num_head_channels 3"),
        ({"channel_mult": (0, 1)}, "must be 1 or more"),
        ({"model_channels": 9, "norm_groups": 3}, "must be even"),
    ):
        with pytest.raises(ValidationError, match=told):
            DenoiserConfig.model_validate(denoiser.config.model_dump() | wrong)
