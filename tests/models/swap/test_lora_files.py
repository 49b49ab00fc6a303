"""LoRA files: the published layout to the letter, and what does not fit is named, never skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from models.swap import config as swap_config
from models.swap.codec import PatchCodec
from models.swap.data import TeacherData
from models.swap.lora_files import FILE_NAME, LoraMismatch, apply_lora, lora_state, read_lora, save_lora
from models.swap.training import train
from models.swap.training_recipe import TrainingRecipe
from models.swap.transformer import SwapTransformer


def test_the_published_layout_round_trips_into_another_model(build_model, tmp_path):
    model = build_model(lora=True)
    save_lora(lora_state(model), tmp_path / FILE_NAME)
    stored = load_file(tmp_path / FILE_NAME)
    peft_state = get_peft_model_state_dict(model.flux, adapter_name="default")
    assert set(stored) == {f"transformer.{key}" for key in peft_state}
    other = build_model()
    apply_lora(other, read_lora(tmp_path))
    for name, parameter in model.lora_parameters().items():
        assert torch.equal(parameter, other.lora_parameters()[name])


def test_at_full_size_there_are_exactly_the_686_published_tensors():
    """Rank 64 on 1 + 19 x 6 + 38 x 6 maps, enumerated here and not by peft."""
    width, hidden, rank = 3072, 4 * 3072, 64
    maps = {"x_embedder": (64, width)}
    for block in range(19):
        maps[f"transformer_blocks.{block}.norm1.linear"] = (width, 6 * width)
        maps |= {f"transformer_blocks.{block}.attn.to_{name}": (width, width) for name in "qkv"}
        maps[f"transformer_blocks.{block}.attn.to_out.0"] = (width, width)
        maps[f"transformer_blocks.{block}.ff.net.2"] = (hidden, width)
    for block in range(38):
        maps[f"single_transformer_blocks.{block}.norm.linear"] = (width, 3 * width)
        maps |= {f"single_transformer_blocks.{block}.attn.to_{name}": (width, width) for name in "qkv"}
        maps[f"single_transformer_blocks.{block}.proj_mlp"] = (width, hidden)
        maps[f"single_transformer_blocks.{block}.proj_out"] = (width + hidden, width)
    published = {f"transformer.{name}.lora_A.weight": (rank, maps[name][0]) for name in maps}
    published |= {f"transformer.{name}.lora_B.weight": (maps[name][1], rank) for name in maps}
    assert len(published) == 686
    with torch.device("meta"):
        model = SwapTransformer(swap_config.flux_krea())
        file = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in published.items()}
    apply_lora(model, file)
    written = {name: tuple(value.shape) for name, value in model.lora_parameters().items()}
    assert {f"transformer.{name.replace('.default.', '.')}" for name in written} == set(published)
    for name, shape in written.items():
        assert published[f"transformer.{name.replace('.default.', '.')}"] == shape
    lacking = "transformer.single_transformer_blocks.37.proj_out.lora_B.weight"
    del file[lacking]
    with pytest.raises(LoraMismatch, match=f"missing {lacking}$"):
        apply_lora(model, file)


def test_half_precision_files_of_another_rank_keep_scale_one(build_model, tmp_path):
    donor_config = swap_config.smoke().model_copy(update={"lora": swap_config.LoraConfig(rank=2, alpha=2)})
    donor = lora_state(build_model(donor_config, lora=True))
    save_lora({name: value.bfloat16() for name, value in donor.items()}, tmp_path / "half.safetensors")
    receiver = build_model()
    apply_lora(receiver, read_lora(tmp_path / "half.safetensors"))
    assert receiver.flux.x_embedder.scaling["default"] == 1.0
    assert receiver.flux.x_embedder.r["default"] == 2
    for name, value in lora_state(receiver).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, donor[name].bfloat16().float())


def test_three_prefixes_are_read_and_none_is_mixed(build_model, tmp_path):
    state = lora_state(build_model(lora=True))
    path = tmp_path / "x.safetensors"
    for prefix in ("transformer.", "base_model.model.", ""):
        save_file({prefix + key.removeprefix("transformer."): value for key, value in state.items()}, path)
        read = read_lora(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], value) for key, value in state.items())
    key = "transformer.x_embedder.lora_A.weight"
    mixed = {(name.removeprefix("transformer.") if name == key else name): v for name, v in state.items()}
    save_file(mixed, path)
    with pytest.raises(LoraMismatch, match=r"mixes prefixes: .*accepted are transformer\.<module>\.lora_A"):
        read_lora(path)
    save_file({key.replace("lora_A.weight", "lora_A.default.weight"): state[key]}, path)
    with pytest.raises(LoraMismatch, match=r"lora_A\.default\.weight; accepted are .*base_model\.model\."):
        read_lora(path)


def test_an_alpha_other_than_the_rank_is_not_overlooked(build_model, tmp_path):
    state = lora_state(build_model(lora=True))
    path = tmp_path / "x.safetensors"
    told = {"transformer.r": 4, "transformer.lora_alpha": 8}
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(LoraMismatch, match="trained with rank 4 and alpha 8"):
        read_lora(path)
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps({**told, "transformer.r": 8})})
    assert read_lora(path).keys() == state.keys()


def test_misfits_are_named(build_model, tmp_path):
    state = lora_state(build_model(lora=True))
    key = "transformer.x_embedder.lora_A.weight"
    missing = {name: value for name, value in state.items() if name != key}
    with pytest.raises(LoraMismatch, match=r"missing transformer\.x_embedder\.lora_A\.weight"):
        apply_lora(build_model(), missing)
    extra = {**state, "transformer.context_embedder.lora_A.weight": state[key]}
    with pytest.raises(LoraMismatch, match=r"unexpected transformer\.context_embedder"):
        apply_lora(build_model(), extra)
    reshaped = {**state, key: state[key][:, :-1]}
    with pytest.raises(LoraMismatch, match=r"x_embedder\.lora_A\.weight \(4, 47\) instead of \(4, 48\)"):
        apply_lora(build_model(), reshaped)
    save_file({"unet.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(LoraMismatch, match=r"no LoRA of a transformer: unet\.weight"):
        read_lora(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"nonsense")
    with pytest.raises(LoraMismatch, match="no readable safetensors"):
        read_lora(tmp_path / "y.safetensors")
    with pytest.raises(FileNotFoundError, match="no LoRA file"):
        read_lora(tmp_path / "z.safetensors")


@pytest.fixture
def trained(build_model, tmp_path) -> tuple[SwapTransformer, Path]:
    """A model trained for two steps, and its file."""
    model, rng = build_model(), np.random.default_rng(0)
    codec = PatchCodec(swap_config.smoke().codec)
    codec.fit(rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    latents = rng.standard_normal((8, 16, 48)).astype(np.float32)
    data = TeacherData(latents, latents * 0.5, rng.standard_normal((8, 128)), np.arange(8) // 2)
    recipe = TrainingRecipe(steps=2, batch_size=2, learning_rate=0.1, identity_loss_weight=0.0)
    result = train(model, data, recipe, tmp_path / "run", codec=codec, black_latents_LC=torch.zeros(16, 48))
    moved = [value for name, value in result.lora_state.items() if "lora_B" in name]
    assert sum(bool(value.abs().max() > 0) for value in moved) > 8
    save_lora(result.lora_state, tmp_path / FILE_NAME)
    return model, tmp_path / FILE_NAME


def _stock(model: SwapTransformer) -> FluxTransformer2DModel:
    """diffusers' own class with the base's weights."""
    stock = FluxTransformer2DModel(**model.config.transformer.model_dump(exclude={"text_tokens"}))
    weights = {
        name.replace(".base_layer", ""): value
        for name, value in model.flux.state_dict().items()
        if ".lora_" not in name
    }
    stock.load_state_dict(weights)
    return stock.eval()


@torch.no_grad()
def _predict(stock: FluxTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    side = torch.arange(4.0)
    grid = torch.stack(
        [torch.zeros(16), side.repeat_interleave(4), side.repeat(4)],
        dim=1,
    )
    return stock(
        hidden_states=torch.randn(2, 16, 48, generator=generator),
        encoder_hidden_states=torch.randn(2, 2, 16, generator=generator),
        pooled_projections=torch.randn(2, 16, generator=generator),
        timestep=torch.tensor([0.2, 0.7]),
        img_ids=grid,
        txt_ids=torch.zeros(2, 3),
        guidance=torch.ones(2),
        return_dict=False,
    )[0]


def test_a_trained_model_loads_in_stock_diffusers(trained, flux_files):
    """Both of its ways, every tensor, and with the strength it was trained with."""
    model, path = trained
    state = load_file(path)
    # What adapters on every branch mean, written out: W + B A, as rank and alpha are equal.
    merged = _stock(model)
    with torch.no_grad():
        for key in [name for name in state if ".lora_A." in name]:
            linear: Any = merged.get_submodule(
                key.removeprefix("transformer.").removesuffix(".lora_A.weight")
            )
            linear.weight += state[key.replace("lora_A", "lora_B")] @ state[key]
    expected, plain = _predict(merged), _predict(_stock(model))
    assert (expected - plain).abs().max() > 1e-2
    by_model = _stock(model)
    by_model.load_lora_adapter(dict(state), prefix="transformer")
    by_pipeline = _stock(model)
    pipeline = flux_files.pipeline_of(transformer=by_pipeline)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    for stock in (by_model, by_pipeline):
        landed = {
            f"transformer.{name}".replace(f".{adapter}.", "."): value
            for adapter in stock.peft_config
            for name, value in stock.named_parameters()
            if ".lora_" in name
        }
        assert landed.keys() == state.keys()
        assert all(torch.equal(landed[name], value) for name, value in state.items())
        torch.testing.assert_close(_predict(stock), expected, rtol=1e-4, atol=1e-5)
