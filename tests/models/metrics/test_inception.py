"""FID's Inception: blocks against straight lines, border rules, strict files."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor

from models.metrics.inception import Block8, Block35, FidInception, load_fid_inception
from models.weight_files import WeightMismatch

SMALL = 16


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("conv.weight"):
            value.copy_(noise * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "bn.weight")):
            value.copy_(1 + 0.2 * noise.abs())
        else:
            value.copy_(0.1 * noise)
    return network.eval().requires_grad_(False)


def straight(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Convolution, normalisation and rectifier as sums of shifted pictures, `same` size."""
    weight, normal = state[f"{name}.conv.weight"], {}
    for part in ("weight", "bias", "running_mean", "running_var"):
        normal[part] = state[f"{name}.bn.{part}"][:, None, None]
    rows, columns = weight.shape[2:]
    height, width = x.shape[2:]
    padded = functional.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2))
    shifted = [
        torch.einsum("bchw,oc->bohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
        for i in range(rows)
        for j in range(columns)
    ]
    x = torch.stack(shifted).sum(dim=0)
    x = (x - normal["running_mean"]) / (normal["running_var"] + 1e-3).sqrt()
    return (x * normal["weight"] + normal["bias"]).clamp(min=0)


def neighbours(x: Tensor, fill: float) -> Tensor:
    """The nine neighbours of every pixel, (9, B, C, H, W)."""
    padded = functional.pad(x, (1, 1, 1, 1), value=fill)
    height, width = x.shape[2:]
    return torch.stack([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)])


def test_a_block_of_35_px_is_its_straight_line() -> None:
    network = randomised(Block35(320, 192, SMALL))
    x, state = torch.rand(2, 20, 6, 5, generator=torch.Generator().manual_seed(1)), network.state_dict()
    # the mean of those neighbours that are inside the picture
    mean = neighbours(x, 0).sum(dim=0) / neighbours(torch.ones_like(x), 0).sum(dim=0)
    parts = []
    for branch, start in (
        (("1x1",), x),
        (("5x5_1", "5x5_2"), x),
        (("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"), x),
        (("_pool",), mean),
    ):
        for name in branch:
            start = straight(state, f"branch{name}", start)
        parts.append(start)
    assert torch.allclose(network(x), torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("maximum", [False, True])
def test_the_last_block_pools_by_the_maximum(maximum: bool) -> None:
    network = randomised(Block8(256, SMALL, maximum=maximum))
    x, state = torch.rand(1, 16, 4, 4, generator=torch.Generator().manual_seed(2)), network.state_dict()
    mean = neighbours(x, 0).sum(dim=0) / neighbours(torch.ones_like(x), 0).sum(dim=0)
    pooled = neighbours(x, -1).amax(dim=0) if maximum else mean
    once = straight(state, "branch3x3_1", x)
    twice = straight(state, "branch3x3dbl_2", straight(state, "branch3x3dbl_1", x))
    wanted = [straight(state, "branch1x1", x)]
    wanted += [straight(state, f"branch3x3_2{part}", once) for part in "ab"]
    wanted += [straight(state, f"branch3x3dbl_3{part}", twice) for part in "ab"]
    wanted.append(straight(state, "branch_pool", pooled))
    assert torch.allclose(network(x), torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-5)


def test_a_file_is_read_strictly_and_a_batch_is_its_pictures(tmp_path: Path) -> None:
    network = randomised(FidInception(SMALL))
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    path = tmp_path / "inception.safetensors"
    # the published file has the classifier too
    save_file(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    loaded = load_fid_inception(path, SMALL)
    pictures = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        both = loaded(pictures)
        assert both.shape == (2, 128)
        assert torch.allclose(both[1:], loaded(pictures[1:]), rtol=1e-4, atol=1e-5)
    assert both.std() > 0.01
    assert not torch.allclose(both[0], both[1], rtol=1e-2)
    with pytest.raises(ValueError, match=r"expected pictures \(B, 3, H, W\)"):
        loaded(pictures[:, :2])
    del state["Mixed_7c.branch_pool.conv.weight"]
    save_file(state, path)
    with pytest.raises(WeightMismatch, match=r"1 missing: Mixed_7c\.branch_pool\.conv\.weight"):
        load_fid_inception(path, SMALL)
