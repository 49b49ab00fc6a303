"""A deeper transformer out of a trained one starts where that one ended."""

from __future__ import annotations

import pytest
import torch

from models.swap import config as swap_config
from models.swap.config import SwapModelConfig
from models.swap.growing import CannotGrow, grow
from models.swap.transformer import SwapTransformer

SMALL = swap_config.smoke()


def _of(singles: int, **changes: object) -> SwapModelConfig:
    sizes = {"num_single_layers": singles, **changes}
    return SMALL.model_copy(update={"transformer": SMALL.transformer.model_copy(update=sizes)})


def _trained(config: SwapModelConfig) -> SwapTransformer:
    """Random everywhere: what begins silent would hide a fault."""
    model = SwapTransformer(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def _velocity(model: SwapTransformer) -> torch.Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(1)
    noisy, condition = (
        torch.randn(2, config.image_tokens, config.codec.channels, generator=generator) for _ in range(2)
    )
    identity = torch.randn(2, config.identity.embedding_dim, generator=generator)
    return model(
        noisy,
        torch.full((2,), 0.7),
        model.prompts.prompt(2),
        condition_BLC=condition,
        identity_BTD=model.identity_encoder(identity),
        guidance=1.0,
    )


@pytest.mark.parametrize(("before", "after", "new"), [(1, 2, [1]), (2, 5, [1, 3, 4]), (3, 6, [1, 3, 5])])
def test_the_deeper_one_gives_the_same_velocity(before: int, after: int, new: list[int]) -> None:
    earlier, model = _trained(_of(before)), SwapTransformer(_of(after)).eval()
    assert grow(model, earlier) == new
    with torch.no_grad():
        assert torch.equal(_velocity(model), _velocity(earlier))


def test_every_new_block_learns() -> None:
    model = SwapTransformer(_of(4)).eval()
    new = grow(model, _trained(_of(2)))
    for _ in range(2):  # a silent output lets no gradient behind itself before it has moved
        model.zero_grad()
        _velocity(model).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
    for block in new:
        layer = model.flux.single_transformer_blocks[block]
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_as_many_blocks_is_a_copy() -> None:
    earlier, model = _trained(_of(2)), SwapTransformer(_of(2))
    assert grow(model, earlier) == []
    assert all(torch.equal(value, earlier.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("after", [_of(1), _of(3, attention_head_dim=32), _of(3, num_layers=2)])
def test_nothing_else_may_differ(after: SwapModelConfig) -> None:
    with pytest.raises(CannotGrow, match="only more of them"):
        grow(SwapTransformer(after), _trained(_of(2)))
