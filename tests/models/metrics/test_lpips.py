"""LPIPS: numbers against a straight-line reference, gradients, strict files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.metrics.lpips import (
    LayerWeights,
    LpipsVgg,
    VggFeatures,
    load_layer_weights,
    load_lpips,
    load_vgg_features,
)
from models.weight_files import WeightMismatch

SMALL = ((4, 4), (6, 6), (8, 8, 8), (5, 5, 5), (7, 7, 7))
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Numbers of torchvision's convolutions in `features`; behind 2, 7, 14, 21 and 28 the maps are taken."""


def random_lpips(stages: tuple[tuple[int, ...], ...] = SMALL) -> LpipsVgg:
    generator = torch.Generator().manual_seed(3)
    network = LpipsVgg(VggFeatures(stages), LayerWeights(stages)).eval()
    for name, value in network.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if name.startswith("weights"):
            value.data.copy_(noise.abs())
        else:
            value.data.copy_(noise * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.1) * 1.4)
    return network


def straight_line(state: dict[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """The distance once more, from the paper and the tensors' names: convolutions as sums of shifts."""

    def maps(x: Tensor) -> list[Tensor]:
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        x, found = (x - shift) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), []
        for number in CONVOLUTIONS:
            if number in (5, 10, 17, 24):
                height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
                x = torch.stack([x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)
            weight, bias = (state[f"vgg.features.{number}.{part}"] for part in ("weight", "bias"))
            padded = torch.zeros(len(x), x.shape[1], x.shape[2] + 2, x.shape[3] + 2)
            padded[:, :, 1:-1, 1:-1] = x
            shifted = [
                torch.einsum(
                    "bchw,oc->bohw",
                    padded[:, :, i : i + x.shape[2], j : j + x.shape[3]],
                    weight[:, :, i, j],
                )
                for i in range(3)
                for j in range(3)
            ]
            x = (torch.stack(shifted).sum(dim=0) + bias[:, None, None]).clamp(min=0)
            if number in (2, 7, 14, 21, 28):
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    total = torch.zeros(len(first))
    for index, (one, other) in enumerate(zip(maps(first), maps(second), strict=True)):
        weight = state[f"weights.lin{index}.model.1.weight"].view(1, -1, 1, 1)
        total = total + ((one - other) ** 2 * weight).sum(dim=1).mean(dim=(1, 2))
    return total


def pictures(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (37, 50)])
def test_distances_are_the_papers(height: int, width: int) -> None:
    network = random_lpips()
    first, second = pictures(3, 3, height, width, seed=0), pictures(3, 3, height, width, seed=1)
    distances = network(first, second)
    assert distances.shape == (3,)
    torch.testing.assert_close(distances, straight_line(network.state_dict(), first, second))
    torch.testing.assert_close(distances[1:2], network(first[1:2], second[1:2]))
    torch.testing.assert_close(distances, network(second, first))
    assert (distances > 0.01).all()
    assert not network(first, first).any()


def test_gradients_flow_and_are_finite_where_features_vanish() -> None:
    network = random_lpips()
    first, second = pictures(1, 3, 24, 24, seed=0).requires_grad_(), pictures(1, 3, 24, 24, seed=1)
    (gradient,) = torch.autograd.grad(network(first, second).sum(), first)
    assert gradient.abs().amin() > 0
    nudged = first.detach() - 1e-3 * gradient / gradient.abs().max()
    assert network(nudged, second) < network(first.detach(), second)
    state = network.state_dict()
    state["vgg.features.0.bias"].fill_(-1e3)  # nothing passes the first rectifier
    state["vgg.features.2.bias"].zero_()
    assert not network.vgg(first)[0].any()
    (gradient,) = torch.autograd.grad(network(first, second).sum(), first)
    assert torch.isfinite(gradient).all()


def test_unfit_pictures_are_refused() -> None:
    network = random_lpips()
    with pytest.raises(ValueError, match="15 x 32 px: LPIPS needs 16 px on each side"):
        network(torch.zeros(1, 3, 15, 32), torch.zeros(1, 3, 15, 32))
    with pytest.raises(ValueError, match=r"two batches \(B, 3, H, W\), got \(1, 3, 32, 32\)"):
        network(torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32))


def test_both_published_files_are_read_strictly(tmp_path: Path) -> None:
    vgg, weights = VggFeatures(), LayerWeights()
    assert [name for name, _ in vgg.named_parameters()] == [
        f"features.{number}.{part}" for number in CONVOLUTIONS for part in ("weight", "bias")
    ]
    assert {name: tuple(value.shape) for name, value in weights.state_dict().items()} == {
        f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate((64, 128, 256, 512, 512))
    }
    whole, layers = tmp_path / "vgg16.safetensors", tmp_path / "vgg.safetensors"
    classifier = {
        f"{name}.weight": torch.zeros(2, 2) for name in ("classifier.0", "pre_logits.fc1", "head.fc")
    }
    save_file(vgg.state_dict() | classifier, whole)
    save_file(weights.state_dict(), layers)
    network = load_lpips(whole, layers)
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    first, second = pictures(1, 3, 16, 16, seed=0), pictures(1, 3, 16, 16, seed=1)
    torch.testing.assert_close(network(first, second), LpipsVgg(vgg, weights).eval()(first, second))
    with pytest.raises(WeightMismatch, match=r"26 missing: features\.0\.weight"):
        load_vgg_features(layers)
    state = weights.state_dict()
    save_file({**state, "lin4.model.1.weight": torch.zeros(1, 4, 1, 1)}, layers)
    with pytest.raises(WeightMismatch, match=r"lin4\.model\.1\.weight is \(1, 4, 1, 1\) instead of"):
        load_layer_weights(layers)
