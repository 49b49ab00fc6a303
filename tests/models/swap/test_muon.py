from __future__ import annotations

import pytest
import torch
from torch import nn

from models.swap.config import smoke
from models.swap.muon import MOMENTUM, RATE_AS_ADAMW, Muon, is_hidden_matrix, orthogonal_part
from models.swap.training_recipe import TrainingRecipe
from models.swap.transformer import SwapTransformer


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_the_orthogonal_part_keeps_directions_and_levels_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = left.T @ orthogonal_part(matrix) @ right.T
    levelled = kept.diagonal()
    assert values.max() / values.min() > 3  # otherwise there would be nothing to level
    assert levelled.min() > 0.5
    assert levelled.max() < 1.3
    assert (kept - levelled.diag()).abs().max() < 1e-4


def test_a_matrix_moves_by_the_momentums_orthogonal_part_and_a_vector_as_adamw_moves_it():
    generator = torch.Generator().manual_seed(2)
    matrix, vector = (nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 6), (5,)))
    reference = nn.Parameter(vector.detach().clone())
    optimiser = Muon([matrix, vector], {matrix}, 0.01, 0.1, (0.9, 0.999), 1e-8)
    adamw = torch.optim.AdamW([reference], lr=0.01, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    expected, momentum = matrix.detach().clone(), torch.zeros(8, 6)
    for _ in range(3):
        matrix.grad, vector.grad = torch.randn(8, 6, generator=generator), torch.randn(5, generator=generator)
        reference.grad = vector.grad.clone()
        momentum = MOMENTUM * momentum + matrix.grad
        ahead = orthogonal_part(matrix.grad + MOMENTUM * momentum)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * RATE_AS_ADAMW * 8**0.5 * ahead
        optimiser.step()
        adamw.step()
    torch.testing.assert_close(matrix.detach(), expected)
    torch.testing.assert_close(vector.detach(), reference.detach())


def test_maps_between_hidden_layers_are_its_own_and_the_ends_are_not():
    parameters = dict(SwapTransformer(smoke()).named_parameters())
    hidden = {name for name, value in parameters.items() if is_hidden_matrix(name, value)}
    assert "flux.transformer_blocks.0.attn.to_q.weight" in hidden
    assert "flux.single_transformer_blocks.0.proj_out.weight" in hidden
    assert "identity_attention.0.to_kv.weight" in hidden
    assert not {"flux.x_embedder.weight", "flux.proj_out.weight", "flux.context_embedder.weight"} & hidden
    assert all(parameters[name].ndim == 2 for name in hidden)


def test_adapters_are_refused():
    with pytest.raises(ValueError, match="trainable='everything'"):
        TrainingRecipe(optimiser="muon")
