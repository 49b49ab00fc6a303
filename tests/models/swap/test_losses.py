from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.swap import config as swap_config
from models.swap.codec import PatchCodec
from models.swap.losses import (
    LossNetworks,
    clean_estimate,
    flow_matching_losses,
    flow_sample,
    gated_losses,
    shifted,
)
from models.swap.step import Gates, draw_step
from models.swap.training_recipe import TrainingRecipe

NO_ROWS = torch.zeros(4, dtype=torch.bool)


def test_shifted_noise_levels():
    levels = torch.tensor([0.0, 0.2, 0.5, 1.0])
    assert torch.equal(shifted(levels, 1.0), levels)
    torch.testing.assert_close(shifted(levels, 4.0), torch.tensor([0.0, 0.5, 0.8, 1.0]))
    plain, moved = (
        draw_step(TrainingRecipe(batch_size=64, timestep_shift=shift), 1).timestep_B for shift in (1.0, 4.0)
    )
    torch.testing.assert_close(moved, shifted(plain, 4.0))


def test_flow_sample_and_its_inverse():
    x, noise = torch.tensor([[[2.0]], [[4.0]]]), torch.tensor([[[10.0]], [[0.0]]])
    sample = flow_sample(x, noise, torch.tensor([0.25, 0.5]))
    assert sample.noisy_BLC.flatten().tolist() == [4.0, 2.0]
    assert sample.velocity_BLC.flatten().tolist() == [8.0, -4.0]
    torch.testing.assert_close(clean_estimate(sample.noisy_BLC, sample.velocity_BLC, sample.timestep_B), x)
    assert flow_matching_losses(sample.velocity_BLC + 3, sample.velocity_BLC).tolist() == [9.0, 9.0]


class CountingCodec(PatchCodec):
    """The real codec, remembering how many rows it decoded with a gradient, and how many without."""

    def __init__(self) -> None:
        super().__init__(swap_config.smoke().codec)
        self.fit(np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
        self.decoded, self.truths = 0, 0

    def decode_differentiable(self, latents_NLC: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.decoded += len(latents_NLC)
        else:
            self.truths += len(latents_NLC)
        return super().decode_differentiable(latents_NLC)


def _mean_colour(images_BCHW: Tensor, points_B52: Tensor | None) -> Tensor:
    """A differentiable face encoder: mean colour, and where the first point is if there are points."""
    colours = images_BCHW.mean(dim=(2, 3))
    return colours if points_B52 is None else torch.cat([colours, points_B52[:, 0]], dim=1)


def _squared(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    return (a_BCHW - b_BCHW).square().mean(dim=(1, 2, 3))


def _latents(codec: PatchCodec) -> Tensor:
    images = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return codec.encode(images)


@pytest.mark.parametrize(
    ("identity", "lpips", "decoded", "truths"),
    [
        ([1, 0, 1, 0], [0, 0, 0, 0], 2, 0),
        ([0, 0, 0, 0], [0, 1, 1, 1], 3, 3),
        ([1, 0, 1, 0], [0, 0, 1, 1], 3, 2),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),
    ],
)
def test_only_rows_behind_a_gate_are_decoded_and_once_for_both_losses(identity, lpips, decoded, truths):
    codec = CountingCodec()
    clean = _latents(codec).requires_grad_(True)
    wanted = torch.eye(3)[[0, 1, 2, 0]]
    target = clean.detach() + 0.1
    gates = torch.tensor(identity).bool(), torch.tensor(lpips).bool()
    found = gated_losses(
        clean,
        *gates,
        codec=codec,
        networks=LossNetworks(_mean_colour, _squared),
        reference_BD=wanted,
        points_B52=None,
        target_latents_BLC=target,
    )
    assert (codec.decoded, codec.truths) == (decoded, truths)
    pictures = np.clip(PatchCodec.decode_differentiable(codec, clean.detach()).numpy(), 0, 1)
    truth = np.clip(PatchCodec.decode_differentiable(codec, target).numpy(), 0, 1)
    for row in range(4):
        colour = pictures[row].mean(axis=(1, 2))
        expected = 1 - colour @ wanted[row].numpy() / np.linalg.norm(colour) if identity[row] else 0.0
        assert found.identity_B[row].item() == pytest.approx(expected, abs=1e-5)
        distance = np.square(2 * pictures[row] - 2 * truth[row]).mean() if lpips[row] else 0.0
        assert found.lpips_B[row].item() == pytest.approx(distance, abs=1e-5)
    if decoded:
        (found.identity_B + found.lpips_B).sum().backward()
        assert clean.grad is not None
        moved = clean.grad.abs().amax(dim=(1, 2)) > 0
        assert moved.tolist() == [bool(a or b) for a, b in zip(identity, lpips, strict=True)]


def test_the_encoder_gets_the_points_of_its_rows_and_unequal_lengths_are_refused():
    codec = CountingCodec()
    clean, rows = _latents(codec), torch.tensor([False, True, False, True])
    points = torch.arange(4 * 10, dtype=torch.float32).reshape(4, 5, 2)
    seen = []

    def encode(images: Tensor, points_B52: Tensor | None) -> Tensor:
        seen.append(points_B52)
        return _mean_colour(images, points_B52)

    options = {
        "codec": codec,
        "networks": LossNetworks(encode),
        "points_B52": points,
        "target_latents_BLC": clean,
    }
    gated_losses(clean, rows, NO_ROWS, reference_BD=torch.ones(4, 5), **options)
    assert torch.equal(seen[0], points[[1, 3]])
    with pytest.raises(ValueError, match="gives 5 numbers, the reference embeddings have 128"):
        gated_losses(clean, rows, NO_ROWS, reference_BD=torch.ones(4, 128), **options)


def _gates(step: int = 20_000, **options) -> tuple[TrainingRecipe, Gates]:
    recipe = TrainingRecipe(batch_size=4000, seed=1, **options)
    return recipe, Gates.of(recipe, draw_step(recipe, step), step)


def test_gates_follow_noise_dropout_start_and_weight():
    recipe, gates = _gates()
    draws = draw_step(recipe, 20_000)
    assert torch.equal(gates.lpips_B, draws.timestep_B <= 0.35)
    assert torch.equal(gates.identity_B, (draws.timestep_B <= 0.35) & draws.identified_B)
    assert float(gates.lpips_B.float().mean()) == pytest.approx(0.268, abs=0.03)
    kept = _gates(identity_loss_on_dropped=True)[1]
    assert torch.equal(kept.identity_B, kept.lpips_B)
    for off in (
        _gates(step=15_000)[1],
        _gates(identity_loss_weight=0.0, lpips_weight=0.0)[1],
    ):
        assert not off.identity_B.any()
        assert not off.lpips_B.any()
    assert _gates(step=15_001)[1].identity_B.any()


def test_normalisation_equals_the_originals_formula():
    """The original: mean(loss x mask) / (mean(mask) + 1e-5) over one micro batch."""
    losses = torch.rand(4000, generator=torch.Generator().manual_seed(0))

    def original(part: slice, mask: Tensor) -> Tensor:
        kept = mask[part].float()
        return (losses[part] * kept).mean() / (kept.mean() + 1e-5)

    recipe, gates = _gates(gated_loss_normalisation="gated_rows")
    ours = float((losses * gates.lpips_B).sum() / gates.lpips_divisor)
    assert ours == pytest.approx(float(original(slice(None), gates.lpips_B)), rel=1e-4)
    # with a micro batch of one row, as the paper trains, the rows without the loss count as zeros
    recipe, gates = _gates()
    assert gates.lpips_divisor == recipe.batch_size
    singles = [original(slice(row, row + 1), gates.lpips_B) for row in range(len(losses))]
    assert float((losses * gates.lpips_B).sum() / gates.lpips_divisor) == pytest.approx(
        float(torch.stack(singles).mean()), rel=1e-4
    )
    assert _gates(identity_loss_threshold=0.0, gated_loss_normalisation="gated_rows")[1].identity_divisor == 1
