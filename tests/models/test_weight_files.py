"""Strict reading of weight files: what fits, what does not, and how the message says so."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.weight_files import WeightMismatch, load_weights


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(x))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = Small()
    torch.nn.init.normal_(network.norm.weight)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_network_made_on_meta_is_filled(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    with torch.device("meta"):
        network = Small()
    load_weights(network, tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network(torch.rand(1, 3, 5, 5)).shape == (1, 4, 3, 3)


def test_names_are_adapted_and_unwanted_tensors_left(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    published = {f"module.{name}": tensor for name, tensor in state.items()} | {"head": torch.zeros(2)}
    save_file(published, tmp_path / "w.safetensors")
    network = Small()
    load_weights(
        network,
        tmp_path / "w.safetensors",
        lambda key: key.removeprefix("module.") if key != "head" else None,
    )
    assert torch.equal(network.norm.weight, state["norm.weight"])
    with pytest.raises(
        WeightMismatch, match=r"6 missing: first\.weight.*8 unknown: head, module\.first\.bias"
    ):
        load_weights(Small(), tmp_path / "w.safetensors")
    with pytest.raises(WeightMismatch, match="are both the network's x"):
        load_weights(Small(), tmp_path / "w.safetensors", lambda key: "x")


def test_the_training_counter_may_be_absent_and_halves_are_widened(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del state["norm.num_batches_tracked"]
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    network = Small()
    load_weights(network, tmp_path / "w.safetensors")
    assert network.first.weight.dtype == torch.float32
    assert torch.equal(network.first.weight, state["first.weight"].half().float())
    assert network.state_dict()["norm.num_batches_tracked"] == 0


def test_every_difference_is_named_and_nothing_is_changed(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    network = Small()
    before = network.first.weight.clone()
    wrong = dict(state)
    wrong["first.weight"] = torch.zeros(4, 3, 5, 5)
    del wrong["norm.running_mean"]
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(WeightMismatch) as caught:
        load_weights(network, tmp_path / "w.safetensors")
    for part in (
        str(tmp_path / "w.safetensors"),
        "1 missing: norm.running_mean",
        "first.weight is (4, 3, 5, 5) instead of (4, 3, 3, 3)",
    ):
        assert part in str(caught.value)
    assert torch.equal(network.first.weight, before)

    damaged = dict(state)
    damaged["first.bias"] = torch.tensor([1.0, float("nan"), 0.0, 0.0])
    save_file(damaged, tmp_path / "w.safetensors")
    with pytest.raises(WeightMismatch, match=r"first\.bias holds a value that is not finite"):
        load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.first.weight, before)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_weights(Small(), tmp_path / "absent.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickled.pth")
    with pytest.raises(WeightMismatch, match="no readable safetensors file"):
        load_weights(Small(), tmp_path / "pickled.pth")
