"""Files of denoisers: published ones strictly, a stock ADM only when asked for, our own with their config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.diffface.checkpoint import load_denoiser, load_published_denoiser, save_denoiser, stored_config
from models.diffface.config import DenoiserConfig
from models.diffface.denoiser import Denoiser
from models.weight_files import WeightMismatch

torch.set_num_threads(1)

IDENTITY_TENSORS = ["id_embed.0.bias", "id_embed.0.weight", "id_embed.2.bias", "id_embed.2.weight"]


@pytest.fixture
def denoiser(small_config: DenoiserConfig) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(small_config).eval().requires_grad_(requires_grad=False)
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.fixture
def stock(denoiser: Denoiser, tmp_path: Path) -> Path:
    """What a published ADM without identity looks like."""
    state = {name: value for name, value in denoiser.state_dict().items() if "id_embed" not in name}
    save_file(state, tmp_path / "adm.safetensors")
    return tmp_path / "adm.safetensors"


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, identity = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 5, generator=generator)
    return x, torch.tensor([10, 900]), identity


def test_our_own_files_come_back_equal(denoiser: Denoiser, tmp_path: Path) -> None:
    save_denoiser(tmp_path / "a" / "net.safetensors", denoiser)
    save_denoiser(tmp_path / "b.safetensors", denoiser)
    assert (tmp_path / "a" / "net.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.safetensors"]
    again = load_denoiser(tmp_path / "b.safetensors")
    assert again.config == denoiser.config == stored_config(tmp_path / "b.safetensors")
    assert torch.equal(again(*inputs()), denoiser(*inputs()))
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_small_files_hold_weights_as_bfloat16(denoiser: Denoiser, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_denoiser(path, denoiser, torch.bfloat16)
    for name, value in load_file(path).items():
        assert value.dtype == (torch.bfloat16 if value.ndim > 1 else torch.float32), name
    again = load_denoiser(path)
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())
    error = (again(*inputs()) - denoiser(*inputs())).abs().mean() / denoiser(*inputs()).abs().mean()
    assert 0 < error < 0.02


def test_published_files_of_any_precision_are_read_strictly(denoiser: Denoiser, tmp_path: Path) -> None:
    state = {name: value.half() for name, value in denoiser.state_dict().items()}
    path = tmp_path / "Model.safetensors"
    save_file(state, path)
    again = load_published_denoiser(path, denoiser.config)
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())
    torch.testing.assert_close(again(*inputs()), denoiser(*inputs()), rtol=0.02, atol=0.02)
    coarse = load_published_denoiser(path, denoiser.config.model_copy(update={"torso_dtype": "bfloat16"}))
    assert coarse.input_blocks[0].state_dict()["0.weight"].dtype == torch.bfloat16
    assert coarse.out.state_dict()["2.weight"].dtype == torch.float32
    save_file({**state, "label_emb.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightMismatch, match=r"1 unknown: label_emb\.weight"):
        load_published_denoiser(path, denoiser.config)
    with pytest.raises(WeightMismatch, match=r"has format None.*read by load_published_denoiser"):
        load_denoiser(path)


def test_a_stock_adm_is_taken_only_when_asked_for(denoiser: Denoiser, stock: Path) -> None:
    with pytest.raises(WeightMismatch, match=r"4 missing: id_embed\.0\.weight"):
        load_published_denoiser(stock, denoiser.config)
    started = load_published_denoiser(stock, denoiser.config, without_identity=True)
    missing = sorted(started.state_dict().keys() - load_file(stock).keys())
    assert missing == IDENTITY_TENSORS
    # whoever it is, it answers as the stock network does, for which identity adds nothing
    x, timestep, identity = inputs()
    for name in IDENTITY_TENSORS:
        denoiser.get_parameter(name).zero_()
    wanted = denoiser(x, timestep, identity)
    assert torch.equal(started(x, timestep, identity), wanted)
    assert torch.equal(started(x, timestep, -identity), wanted)
    # and yet it can learn
    started.requires_grad_()
    started(x, timestep, identity).square().sum().backward()
    gradient = started.get_parameter("id_embed.2.weight").grad
    assert gradient is not None
    assert gradient.abs().amax() > 0


def test_nothing_but_identity_may_be_missing(denoiser: Denoiser, stock: Path, tmp_path: Path) -> None:
    state = load_file(stock)
    del state["time_embed.0.bias"]
    save_file(state, stock)
    with pytest.raises(WeightMismatch, match=r"1 missing: time_embed\.0\.bias"):
        load_published_denoiser(stock, denoiser.config, without_identity=True)
    whole = tmp_path / "whole.safetensors"
    save_file(denoiser.state_dict(), whole)
    with pytest.raises(WeightMismatch, match="holds an identity MLP"):
        load_published_denoiser(whole, denoiser.config, without_identity=True)
    whole.write_bytes(b"no such thing")
    for read in (
        load_denoiser,
        lambda path: load_published_denoiser(path, denoiser.config, without_identity=True),
    ):
        with pytest.raises(WeightMismatch, match="is no readable safetensors file"):
            read(whole)
        with pytest.raises(FileNotFoundError, match="no weights at"):
            read(tmp_path / "absent.safetensors")
