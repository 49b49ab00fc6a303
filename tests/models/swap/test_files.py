from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from models.swap import config as swap_config
from models.swap.base import BaseMismatch, load_base, save_base
from models.swap.checkpoint import (
    CheckpointDamaged,
    CheckpointManifest,
    atomic_folder,
    file_sha256,
    load_checkpoint,
    save_checkpoint,
)
from models.swap.codec import PatchCodec
from models.swap.config import CodecConfig, IdentityConfig
from models.swap.lora_files import FILE_NAME, LoraMismatch, apply_lora, lora_state, read_lora, save_lora
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.training_recipe import TrainingRecipe


def _codec() -> PatchCodec:
    codec = PatchCodec(swap_config.smoke().codec)
    codec.fit(np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    return codec


def _manifest(base_sha256: str = "b" * 64) -> CheckpointManifest:
    return CheckpointManifest(
        config=swap_config.smoke(), recipe=TrainingRecipe(steps=3), base_sha256=base_sha256, parents=("p",)
    )


def test_lora_file_has_the_published_layout_and_loads_into_another_model(build_model, tmp_path):
    model = build_model(lora=True)
    save_lora(lora_state(model), tmp_path / FILE_NAME)
    stored = load_file(tmp_path / FILE_NAME)
    peft_state = get_peft_model_state_dict(model.flux, adapter_name="default")
    assert set(stored) == {f"transformer.{key}" for key in peft_state}
    assert "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight" in stored
    assert "transformer.transformer_blocks.0.norm1.linear.lora_B.weight" in stored
    other = build_model()
    apply_lora(other, read_lora(tmp_path))
    for name, parameter in model.lora_parameters().items():
        assert torch.equal(parameter, other.lora_parameters()[name])


def test_a_lora_of_another_rank_than_the_config_keeps_scale_one(build_model):
    donor_config = swap_config.smoke().model_copy(update={"lora": swap_config.LoraConfig(rank=2, alpha=2)})
    donor = build_model(donor_config, lora=True)
    receiver = build_model()
    apply_lora(receiver, lora_state(donor))
    assert receiver.flux.x_embedder.scaling["default"] == 1.0
    assert receiver.flux.x_embedder.r["default"] == 2


def test_lora_misfits_are_named(build_model, tmp_path):
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
    tensors = load_file(path)
    config = model.config.model_dump(mode="json")
    metadata = {"orchard": json.dumps({"format": "orchard-swap-base-1", "config": config})}
    del tensors["model.flux.proj_out.bias"]
    tensors["codec.more"] = torch.zeros(1)
    save_file(tensors, tmp_path / "broken.safetensors", metadata=metadata)
    with pytest.raises(BaseMismatch, match=r"missing flux\.proj_out\.bias"):
        load_base(tmp_path / "broken.safetensors")
    save_file(tensors, tmp_path / "stranger.safetensors")
    with pytest.raises(BaseMismatch, match="no base of format"):
        load_base(tmp_path / "stranger.safetensors")


@torch.no_grad()
def test_a_folder_of_flux_weights_loads_and_swaps(build_model, build_vae, tmp_path):
    """The full-size profile's layout with small random parts: diffusers folders, PuLID keys, constants."""
    small = swap_config.smoke()
    config = small.model_copy(
        update={
            "transformer": small.transformer.model_copy(update={"in_channels": 16}),
            "identity": IdentityConfig(
                encoder="tokens",
                embedding_dim=64,
                tokens=2,
                token_dim=32,
                heads=2,
                head_dim=16,
                double_interval=1,
                single_interval=1,
            ),
            "base_dtype": "bfloat16",
            "codec": CodecConfig(kind="autoencoder_kl", patch_size=4, channels=16),
        }
    )
    model = build_model(config)
    vae = build_vae()
    model.flux.to(torch.bfloat16).save_pretrained(tmp_path / "transformer")
    vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "swap_model.json").write_text(config.model_dump_json())
    pulid = {f"pulid_ca.{name}": value for name, value in model.identity_attention.state_dict().items()}
    save_file({**pulid, "pulid_encoder.unused": torch.zeros(1)}, tmp_path / "identity.safetensors")
    constants = {
        "prompt_tokens": model.prompts.tokens,
        "prompt_pooled": model.prompts.pooled,
        "unconditional_tokens": torch.ones(2, 32),
    }
    save_file(constants, tmp_path / "constants.safetensors")
    swapper = Swapper.load(tmp_path)
    base = swapper.base
    assert base.model.flux.dtype == torch.bfloat16
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    latents = base.codec.encode(images)
    assert latents.shape == (2, 64, 16)
    base.model.add_lora(config.lora, seed=0)
    assert {value.dtype for value in base.model.lora_parameters().values()} == {torch.float32}
    sampling = SamplingConfig(steps=2, id_guidance_scale=2.0)
    out = swapper.swap(torch.randn(2, 64), latents, latents, sampling, [0, 1])
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert base.codec.decode(out).shape == (2, 32, 32, 3)
    broken = {key: value for key, value in pulid.items() if not key.endswith("0.to_q.weight")}
    save_file(broken, tmp_path / "identity.safetensors")
    with pytest.raises(BaseMismatch, match=r"identity\.safetensors does not fit .* missing 0\.to_q\.weight"):
        load_base(tmp_path)


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
