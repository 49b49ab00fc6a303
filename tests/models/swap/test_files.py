from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.swap import config as swap_config
from models.swap.base import load_base, save_base
from models.swap.checkpoint import (
    CheckpointDamaged,
    CheckpointManifest,
    atomic_folder,
    file_sha256,
    load_checkpoint,
    save_checkpoint,
)
from models.swap.codec import PatchCodec
from models.swap.lora_files import FILE_NAME, LoraMismatch, lora_state
from models.swap.mismatch import BaseMismatch
from models.swap.one_file import load_patch_codec, stored_prompts
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.text import StoredPrompts
from models.swap.training_recipe import TrainingRecipe


def _codec() -> PatchCodec:
    codec = PatchCodec(swap_config.smoke().codec)
    codec.fit(np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    return codec


def _manifest(base_sha256: str = "b" * 64) -> CheckpointManifest:
    return CheckpointManifest(
        config=swap_config.smoke(), recipe=TrainingRecipe(steps=3), base_sha256=base_sha256, parents=("p",)
    )


def test_checkpoints_are_named_by_content_and_verified(build_model, tmp_path):
    state = lora_state(build_model(lora=True))
    folder = save_checkpoint(tmp_path, state, _manifest())
    assert save_checkpoint(tmp_path, state, _manifest()) == folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    loaded, manifest = load_checkpoint(folder)
    assert manifest.digest.startswith(folder.name)
    assert manifest.parents == ("p",)
    for name, value in state.items():
        assert torch.equal(value, loaded[name])
    assert save_checkpoint(tmp_path, state, _manifest("c" * 64)) != folder
    changed = {name: value + 1 for name, value in state.items()}
    assert save_checkpoint(tmp_path, changed, _manifest()) != folder
    with (folder / FILE_NAME).open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x07")
    with pytest.raises(CheckpointDamaged, match="train it again"):
        load_checkpoint(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointDamaged, match="has no manifest"):
        load_checkpoint(folder)


def test_atomic_folder_is_all_or_nothing(tmp_path):
    def fail_half_way() -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "x").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"


@torch.no_grad()
def test_base_file_round_trip_and_misfits(build_model, tmp_path):
    model = build_model()
    model.identity_encoder.fit_whitening(torch.randn(60, 128), torch.arange(20).repeat_interleave(3))
    path = tmp_path / "base.safetensors"
    save_base(path, model, _codec())
    base = load_base(path)
    assert base.config == model.config
    assert base.sha256 == file_sha256(path)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert torch.equal(base.model.identity_encoder.whitening, model.identity_encoder.whitening)
    for name, value in model.named_parameters():
        torch.testing.assert_close(base.model.get_parameter(name), value, rtol=1e-3, atol=1e-4)
    assert base.black_latents_LC().shape == (16, 48)
    images = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(load_patch_codec(path).encode(images), base.codec.encode(images))
    prompts = stored_prompts(path)
    assert torch.equal(prompts.tokens_2TD, base.model.prompts.tokens)
    others = StoredPrompts(prompts.tokens_2TD + 1, prompts.pooled_2D)
    assert torch.equal(load_base(path, prompts=others).model.prompts.tokens, others.tokens_2TD)
    tensors = load_file(path)
    config = model.config.model_dump(mode="json")
    metadata = {"orchard": json.dumps({"format": "orchard-swap-base-1", "config": config})}
    del tensors["model.flux.proj_out.bias"]
    tensors["codec.more"] = torch.zeros(1)
    save_file(tensors, tmp_path / "broken.safetensors", metadata=metadata)
    with pytest.raises(BaseMismatch, match=r"missing model\.flux\.proj_out\.bias; unexpected codec\.more$"):
        load_base(tmp_path / "broken.safetensors")
    save_file(tensors, tmp_path / "stranger.safetensors")
    with pytest.raises(BaseMismatch, match="no base of format"):
        load_base(tmp_path / "stranger.safetensors")


def test_training_settings_are_the_profiles_and_sizes_the_files(build_model, tmp_path):
    path = tmp_path / "base.safetensors"
    save_base(path, build_model(), _codec())
    small = swap_config.smoke()
    lora, condition = (
        swap_config.LoraConfig(rank=2, alpha=2),
        small.condition.model_copy(update={"independent_condition": True}),
    )
    wanted = small.model_copy(update={"name": "ablation", "lora": lora, "condition": condition})
    assert load_base(path, wanted).model.config == wanted
    with pytest.raises(BaseMismatch, match=r"another base than tiny: transformer, identity, codec differ"):
        load_base(path, swap_config.tiny())


@pytest.fixture
def swapper(build_model, tmp_path):
    save_base(tmp_path / "base.safetensors", build_model(), _codec())
    trained = build_model(lora=True)
    sha256 = file_sha256(tmp_path / "base.safetensors")
    folder = save_checkpoint(tmp_path, lora_state(trained), _manifest(sha256))
    return Swapper.load(tmp_path / "base.safetensors", folder)


def _swap_inputs():
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(3, 128), draw(3, 16, 48), draw(3, 16, 48)


@pytest.mark.parametrize("inversion", [None, "noID_trgCond"])
def test_a_batch_equals_its_rows_alone(swapper, inversion):
    source, condition, target = _swap_inputs()
    sampling = SamplingConfig(steps=4, inversion=inversion, id_guidance_scale=2.0, image_guidance_scale=1.5)
    together = swapper.swap(source, condition, target, sampling, [5, 6, 7])
    for row, seed in enumerate([5, 6, 7]):
        one = slice(row, row + 1)
        alone = swapper.swap(source[one], condition[one], target[one], sampling, [seed])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)
    again = swapper.swap(source, condition, target, sampling, [5, 6, 7])
    assert torch.equal(together, again)


def test_seeds_matter_without_inversion_and_the_target_with_it(swapper):
    source, condition, target = _swap_inputs()
    free, bound = SamplingConfig(steps=3, inversion=None), SamplingConfig(steps=3)
    swap = swapper.swap
    assert not torch.allclose(
        swap(source, condition, None, free, [1, 2, 3]), swap(source, condition, None, free, [4, 5, 6])
    )
    first = swap(source, condition, target, bound, [1, 2, 3])
    assert torch.equal(first, swap(source, condition, target, bound, [4, 5, 6]))
    assert not torch.allclose(first, swap(source, condition, target * 0.5, bound, [1, 2, 3]))
    assert not torch.allclose(first, swap(source * 2, condition, target, bound, [1, 2, 3]))
    with pytest.raises(ValueError, match="inversion needs the target's latents"):
        swap(source, condition, None, bound, [1, 2, 3])
    with pytest.raises(ValueError, match="2 seeds for 3 source embeddings"):
        swap(source, condition, target, bound, [1, 2])


@pytest.mark.parametrize("inversion", ["noID_trgCond", "trgID_trgCond"])
def test_an_inverted_target_sampled_as_itself_comes_back(swapper, inversion):
    _, condition, target = _swap_inputs()
    nobody = torch.zeros(3, 128)
    errors = []
    for steps in (8, 64):
        sampling = SamplingConfig(steps=steps, inversion=inversion, second_order=True)
        back = swapper.swap(nobody, condition, target, sampling, [0, 0, 0], target_embedding_BD=nobody)
        errors.append(float((back - target).abs().mean()))
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.15 * float(target.abs().mean())
    partial = SamplingConfig(steps=8, inverse_steps=2, inversion=inversion)
    back = swapper.swap(nobody, condition, target, partial, [0, 0, 0], target_embedding_BD=nobody)
    assert float((back - target).abs().mean()) < errors[0]


def test_a_checkpoint_of_another_base_is_refused(build_model, tmp_path):
    save_base(tmp_path / "base.safetensors", build_model(), _codec())
    folder = save_checkpoint(tmp_path, lora_state(build_model(lora=True)), _manifest("0" * 64))
    with pytest.raises(LoraMismatch, match="was trained on base 000"):
        Swapper.load(tmp_path / "base.safetensors", folder)


def test_manifest_is_plain_json(build_model, tmp_path):
    folder = save_checkpoint(tmp_path, lora_state(build_model(lora=True)), _manifest())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["base_sha256"] == "b" * 64
    assert manifest["config"]["name"] == "smoke"
    assert manifest["weights_sha256"] == file_sha256(folder / FILE_NAME)
