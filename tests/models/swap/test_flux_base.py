"""FLUX as published, PuLID's file and stored prompts make a base; anything that differs is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.identity.network_sizes import IdFormerConfig
from models.swap import config as swap_config
from models.swap.base import SwapBase
from models.swap.config import IdentityConfig, SwapModelConfig
from models.swap.flux_base import load_flux_base, load_flux_codec, pulid_shapes, save_identity
from models.swap.mismatch import BaseMismatch
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.text import StoredPrompts
from models.swap.transformer import SwapTransformer

Load = Callable[..., SwapBase]
Damage = Callable[[Path, ModuleType], None]


@pytest.fixture(scope="module")
def config(flux_files: ModuleType) -> SwapModelConfig:
    return flux_files.small_config()


@pytest.fixture(scope="module")
def published(
    flux_files: ModuleType, config: SwapModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`flux/` without text encoders, in shards, and `pulid.safetensors`."""
    root = tmp_path_factory.mktemp("published")
    flux_files.write_hub_folder(root / "flux", config, shard_size="100KB")
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(root / "flux" / name)
    flux_files.write_pulid(root / "pulid.safetensors", config)
    return root


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(published, tmp_path / "own")


def _prompts() -> StoredPrompts:
    generator = torch.Generator().manual_seed(5)
    tokens, pooled = (torch.randn(shape, generator=generator).bfloat16() for shape in ((2, 8, 16), (2, 16)))
    return StoredPrompts(tokens, pooled, torch.ones(2, 32))


@pytest.fixture
def load(flux_files: ModuleType, config: SwapModelConfig) -> Load:
    """Load the base of a root, as the config says or as another one."""

    def load(root: Path, other: SwapModelConfig | None = None) -> SwapBase:
        return load_flux_base(
            other or config,
            transformer=root / "flux",
            codec=root / "flux",
            identity=root / "pulid.safetensors",
            prompts=_prompts(),
            sha256="a" * 64,
            former=flux_files.FORMER,
        )

    return load


def test_every_number_of_every_file_lands(published: Path, load: Load) -> None:
    assert len(list((published / "flux" / "transformer").glob("*-of-*.safetensors"))) > 2
    base = load(published)
    stored = {
        name: value
        for path in (published / "flux" / "transformer").glob("*.safetensors")
        for name, value in load_file(path).items()
    }
    assert base.model.flux.state_dict().keys() == stored.keys()
    for name, value in base.model.flux.state_dict().items():
        assert torch.equal(value, stored[name]), name
    pulid = load_file(published / "pulid.safetensors")
    for name, value in base.model.identity_attention.state_dict().items():
        assert torch.equal(value, pulid[f"pulid_ca.{name}"].bfloat16()), name
    assert torch.equal(base.model.prompts.prompt(1).tokens_BTD[0], _prompts().tokens_2TD[1].float())
    assert torch.equal(base.model.identity_encoder.unconditional(1), torch.ones(1, 2, 32))
    assert not any(value.is_meta for value in base.model.state_dict().values())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert {value.dtype for value in base.model.flux.parameters()} == {torch.bfloat16}


def test_it_swaps_with_float32_adapters_on_a_bfloat16_base(
    published: Path, load: Load, config: SwapModelConfig
) -> None:
    swapper = Swapper.on_base(load(published))
    base = swapper.base
    base.model.add_lora(config.lora, seed=0)
    assert {value.dtype for value in base.model.lora_parameters().values()} == {torch.float32}
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    latents = base.codec.encode(images)
    assert latents.shape == (2, 64, 16)
    out = swapper.swap(
        torch.randn(2, 64), latents, latents, SamplingConfig(steps=2, id_guidance_scale=2.0), [0, 1]
    )
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert base.codec.decode(out).shape == (2, 32, 32, 3)


def _without_shard(root: Path, files: ModuleType) -> None:
    next((root / "flux" / "transformer").glob("*-00002-of-*")).unlink()


def _other_depth(root: Path, files: ModuleType) -> None:
    shutil.rmtree(root / "flux" / "transformer")
    files.write_hub_folder(root / "flux", files.small_config(num_single_layers=2))


def _config_of_another_depth(root: Path, files: ModuleType) -> None:
    files.rewrite_json(root / "flux" / "transformer" / "config.json", num_single_layers=2)


def _cut_shard(root: Path, files: ModuleType) -> None:
    path = next((root / "flux" / "transformer").glob("*-00001-of-*"))
    path.write_bytes(path.read_bytes()[:-100])


def _no_weights(root: Path, files: ModuleType) -> None:
    for path in (root / "flux" / "vae").glob("*.safetensors"):
        path.unlink()


def _no_config(root: Path, files: ModuleType) -> None:
    (root / "flux" / "vae" / "config.json").unlink()


def _damaged_index(root: Path, files: ModuleType) -> None:
    next((root / "flux" / "transformer").glob("*.index.json")).write_text("{}")


def _pulid(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(root: Path, files: ModuleType) -> None:
        tensors = files.pulid_tensors(files.small_config())
        change(tensors)
        save_file(tensors, root / "pulid.safetensors")

    return damage


def _missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["pulid_encoder.layers.1.0.to_q.weight"]


def _renamed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["pulid_ca.1.to_query.weight"] = tensors.pop("pulid_ca.1.to_q.weight")


def _reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["pulid_ca.0.to_out.weight"] = tensors["pulid_ca.0.to_out.weight"][:, 1:].contiguous()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without_shard, r"transformer lacks 1 of the \d shards that its index names: diffusion.*00002-of"),
        (_other_depth, r"not the transformer of small-flux: num_single_layers is 2 instead of 1"),
        (
            _config_of_another_depth,
            r"transformer does not fit its config: missing single_transformer_blocks\.1",
        ),
        (_cut_shard, "no readable safetensors file"),
        (_no_weights, "vae holds neither"),
        (_no_config, r"vae/config\.json cannot be read"),
        (_damaged_index, r"index\.json cannot be read"),
        (_pulid(_missing), r"pulid\.safetensors .* missing pulid_encoder\.layers\.1\.0\.to_q\.weight$"),
        (_pulid(_renamed), r"missing pulid_ca\.1\.to_q\.weight; unexpected pulid_ca\.1\.to_query\.weight$"),
        (_pulid(_reshaped), r"wrong shapes pulid_ca\.0\.to_out\.weight \(64, 31\) instead of \(64, 32\)$"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    own: Path, load: Load, flux_files: ModuleType, damage: Damage, told: str
) -> None:
    damage(own, flux_files)
    with pytest.raises(BaseMismatch, match=told) as caught:
        load(own)
    assert "\n" not in str(caught.value)


def test_another_codec_or_other_prompts_are_refused(
    published: Path, load: Load, config: SwapModelConfig
) -> None:
    other = config.codec.model_copy(update={"patch_size": 16, "channels": 64})
    with pytest.raises(BaseMismatch, match="packs 4 px into 16 channels, the config says 16 px and 64"):
        load_flux_codec(published / "flux", other, "float32")
    longer = config.model_copy(
        update={"transformer": config.transformer.model_copy(update={"text_tokens": 9})}
    )
    with pytest.raises(BaseMismatch, match=r"prompt embeddings .* \(2, 8, 16\) instead of \(2, 9, 16\)"):
        load(published, longer)


def test_own_identity_parts_are_read_and_never_made_up(
    published: Path, tmp_path: Path, load: Load, config: SwapModelConfig
) -> None:
    """The form of a base without PuLID: FLUX.1-schnell."""
    identity = IdentityConfig(
        embedding_dim=128, tokens=2, token_dim=32, heads=2, head_dim=16, double_interval=1, single_interval=1
    )
    own = config.model_copy(update={"identity": identity})
    torch.manual_seed(4)
    trained = SwapTransformer(own)
    path = tmp_path / "identity.safetensors"
    save_identity(path, trained)
    prompts = _prompts()

    def load_own(identity: Path) -> SwapBase:
        return load_flux_base(
            own,
            transformer=published / "flux",
            codec=published / "flux",
            identity=identity,
            prompts=StoredPrompts(prompts.tokens_2TD, prompts.pooled_2D),
            sha256="b" * 64,
        )

    loaded = load_own(path).model
    for name, value in trained.identity_encoder.state_dict().items():
        assert torch.equal(loaded.identity_encoder.state_dict()[name], value), name
    with pytest.raises(BaseMismatch, match=r"pulid\.safetensors does not fit .* missing identity_"):
        load_own(published / "pulid.safetensors")
    with pytest.raises(BaseMismatch, match="is absent or no readable"):
        load_own(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="PuLID's own file"):
        save_identity(path, load(published).model)


def test_pulid_at_full_size_has_the_published_tensors() -> None:
    """172 tensors of the encoder and 140 of the cross-attentions, enumerated by hand."""

    def mapping(width_in: int, width_out: int) -> dict[str, tuple[int, ...]]:
        return {
            "0.weight": (1024, width_in),
            "0.bias": (1024,),
            "1.weight": (1024,),
            "1.bias": (1024,),
            "3.weight": (1024, 1024),
            "3.bias": (1024,),
            "4.weight": (1024,),
            "4.bias": (1024,),
            "6.weight": (width_out, 1024),
            "6.bias": (width_out,),
        }

    encoder: dict[str, tuple[int, ...]] = {"latents": (1, 32, 1024), "proj_out": (1024, 2048)}
    for layer in range(10):
        for norm in ("norm1", "norm2"):
            encoder |= {f"layers.{layer}.0.{norm}.{kind}": (1024,) for kind in ("weight", "bias")}
        encoder[f"layers.{layer}.0.to_q.weight"] = (1024, 1024)
        encoder[f"layers.{layer}.0.to_kv.weight"] = (2048, 1024)
        encoder[f"layers.{layer}.0.to_out.weight"] = (1024, 1024)
        encoder |= {f"layers.{layer}.1.0.{kind}": (1024,) for kind in ("weight", "bias")}
        encoder[f"layers.{layer}.1.1.weight"] = (4096, 1024)
        encoder[f"layers.{layer}.1.3.weight"] = (1024, 4096)
    for scale in range(5):
        encoder |= {f"mapping_{scale}.{name}": shape for name, shape in mapping(1024, 1024).items()}
    encoder |= {f"id_embedding_mapping.{name}": shape for name, shape in mapping(1280, 5120).items()}
    attention: dict[str, tuple[int, ...]] = {}
    # Ten after double blocks 0, 2, ..., 18, then ten after single blocks 0, 4, ..., 36.
    for layer in range(10 + 10):
        attention |= {f"{layer}.norm1.{kind}": (2048,) for kind in ("weight", "bias")}
        attention |= {f"{layer}.norm2.{kind}": (3072,) for kind in ("weight", "bias")}
        attention[f"{layer}.to_q.weight"] = (2048, 3072)
        attention[f"{layer}.to_kv.weight"] = (4096, 2048)
        attention[f"{layer}.to_out.weight"] = (3072, 2048)
    assert (len(encoder), len(attention)) == (172, 140)
    expected = {f"pulid_encoder.{name}": shape for name, shape in encoder.items()}
    expected |= {f"pulid_ca.{name}": shape for name, shape in attention.items()}
    with torch.device("meta"):
        model = SwapTransformer(swap_config.flux_krea())
    assert pulid_shapes(model.identity_attention, IdFormerConfig()) == expected


@torch.no_grad()
def test_cross_attentions_act_on_double_blocks_first(published: Path, load: Load) -> None:
    """Number 0 of the file acts after the double block, number 1 after the single block."""
    model = load(published).model
    order: list[str] = []
    watched = {
        "double": model.flux.transformer_blocks[0],
        "single": model.flux.single_transformer_blocks[0],
        "pulid_ca.0": model.identity_attention[0],
        "pulid_ca.1": model.identity_attention[1],
    }
    for name, module in watched.items():
        linear = next(item for item in module.modules() if isinstance(item, torch.nn.Linear))
        linear.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model(
        torch.randn(1, 64, 16),
        torch.full((1,), 0.5),
        model.prompts.prompt(1),
        identity_BTD=torch.randn(1, 2, 32),
    )
    assert list(dict.fromkeys(order)) == ["double", "pulid_ca.0", "single", "pulid_ca.1"]
