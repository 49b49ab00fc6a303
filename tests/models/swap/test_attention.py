from __future__ import annotations

import math

import pytest
import torch

from models.swap import config as swap_config
from models.swap.attention import AttentionUnavailable, attention, choose_attention
from models.swap.base import SwapBase
from models.swap.codec import PatchCodec
from models.swap.condition_branch import JointAttention, join_and_attend
from models.swap.config import ConditionBranchConfig
from models.swap.execution_config import ExecutionConfig
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["sdpa", "math", "flash"])
def test_backends_equal_softmax_attention(backend):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 5, 3, 8, generator=generator)
    key, value = torch.randn(2, 2, 9, 3, 8, generator=generator)
    scores = torch.einsum("blhd,bmhd->bhlm", query, key) / math.sqrt(8)
    expected = torch.einsum("bhlm,bmhd->blhd", scores.softmax(dim=-1), value).flatten(2)
    torch.testing.assert_close(attention(query, key, value, backend), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("independent", [False, True])
@torch.no_grad()
def test_the_model_gives_the_same_on_every_backend_that_runs(build_model, independent):
    branch = ConditionBranchConfig(independent_condition=independent)
    model = build_model(swap_config.smoke().model_copy(update={"condition": branch}), lora=True)
    generator = torch.Generator().manual_seed(0)
    latents, condition = torch.randn(2, 2, 16, 48, generator=generator)
    identity = model.identity_encoder(torch.randn(2, 128, generator=generator))
    velocities = {}
    for backend in ("sdpa", "math", "flash"):
        assert model.use_attention(backend).backend == backend
        velocities[backend] = model(
            latents,
            torch.full((2,), 0.4),
            model.prompts.prompt(2),
            condition_BLC=condition,
            identity_BTD=identity,
        )
    for backend in ("math", "flash"):
        torch.testing.assert_close(velocities[backend], velocities["sdpa"], rtol=1e-5, atol=1e-5)


def test_auto_says_what_it_takes_and_why(caplog):
    with caplog.at_level("INFO"):
        choice = choose_attention("auto", CPU, torch.float32, [16])
    assert choice.backend == "sdpa"
    assert "torch chooses the kernel" in choice.reason
    assert f"attention sdpa: {choice.reason}" in caplog.text


def test_a_backend_that_does_not_run_is_an_error_before_sampling(build_model):
    with pytest.raises(AttentionUnavailable, match=r"'efficient' does not run on cpu in float32 .* width 16"):
        choose_attention("efficient", CPU, torch.float32, [16])
    model = build_model()
    base = SwapBase(model, PatchCodec(model.config.codec), model.config, "0" * 64)
    with pytest.raises(AttentionUnavailable, match="Ask for 'auto' or 'sdpa'"):
        Swapper(base, execution=ExecutionConfig(attention="efficient"))
    assert model.attention == "sdpa"


def test_the_swapper_tells_its_choices(build_model):
    model = build_model()
    base = SwapBase(model, PatchCodec(model.config.codec), model.config, "0" * 64)
    swapper = Swapper(base, execution=ExecutionConfig(attention="math"))
    assert swapper.choices["attention"].startswith("math: asked for")
    assert "independent_condition=False" in swapper.choices["condition cache"]
    swapped = swapper.swap(torch.ones(1, 128), None, None, SamplingConfig(steps=1, inversion=None), [0])
    assert model.attention == "math"
    assert torch.isfinite(swapped).all()


@pytest.mark.parametrize("backend", ["math", "flash"])
def test_an_independent_condition_equals_one_masked_attention(build_model, backend):
    """Two attentions without a mask against the textbook's one with a mask, block inputs and all."""
    generator = torch.Generator().manual_seed(0)

    def projections(length):
        query, key, value = torch.randn(3, 2, length, 4, 8, generator=generator)
        return query, key, value

    text, image, condition = projections(3), projections(5), projections(4)
    table = lambda length: (torch.ones(length, 8), torch.zeros(length, 8))  # noqa: E731
    joint = JointAttention(table(8), table(4), independent_condition=True, backend=backend)
    (text_out, image_out), own = join_and_attend([text, image], condition, joint)
    assert own is not None
    query, key, value = (
        torch.cat(parts, dim=1).transpose(1, 2) for parts in zip(text, image, condition, strict=True)
    )
    mask = torch.ones(12, 12, dtype=torch.bool)
    mask[8:, :8] = False
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expected = expected.transpose(1, 2).flatten(2)
    ours = torch.cat([text_out, image_out, own], dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
