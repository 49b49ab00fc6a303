"""Regional compiling: the blocks of a kind share one graph, and the model computes what it did before."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters

from models.swap import config as swap_config


def test_blocks_of_a_kind_share_a_graph_and_compute_the_same(build_model) -> None:
    """Traced for real; the code that inductor would make of the graphs is left to the test of numerics."""
    small = swap_config.smoke()
    sizes = small.transformer.model_copy(update={"num_layers": 3, "num_single_layers": 5})
    model = build_model(small.model_copy(update={"transformer": sizes}), lora=True)
    rows, tokens = 2, small.image_tokens
    latents, condition = torch.randn(2, rows, tokens, sizes.in_channels).unbind(0)
    identity = model.identity_encoder(torch.randn(rows, small.identity.embedding_dim))

    def velocity() -> torch.Tensor:
        with torch.inference_mode():
            return model(
                latents,
                torch.tensor([0.3, 0.8]),
                model.prompts.prompt(rows),
                condition_BLC=condition,
                identity_BTD=identity,
            )

    expected = velocity()
    torch.compiler.reset()
    counters.clear()
    assert "the 8 transformer blocks" in model.use_compile(backend="eager")
    torch.testing.assert_close(velocity(), expected)
    # three double blocks one, five single blocks two, since the last one only looks at the condition, and
    # what it looks at one more
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]
    for adapter in model.lora_parameters().values():
        adapter.data.mul_(2)
    changed = velocity()
    assert counters["stats"]["unique_graphs"] == 4  # other adapters need no other graph
    model._compiled.clear()
    torch.testing.assert_close(changed, velocity())
    assert (changed - expected).abs().max() > 1e-4
