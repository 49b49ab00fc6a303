"""FLUX as published, PuLID's file and the stored prompts, assembled into a base.

Every file is compared with the config, name by name and shape by shape, before a number of it is used.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from models.identity.id_former import ATTENTION_PREFIX, PREFIX, IdFormer
from models.identity.network_sizes import IdFormerConfig
from models.swap.base import SwapBase, set_prompts
from models.swap.codec_autoencoder import AutoencoderKLCodec
from models.swap.config import CodecConfig, Precision, SwapModelConfig
from models.swap.diffusers_folders import file_shapes, load_folder
from models.swap.mismatch import BaseMismatch, Shape, compare
from models.swap.text import StoredPrompts
from models.swap.transformer import SwapTransformer

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

OWN_PREFIXES = {"identity_encoder": "identity_encoder.", "identity_attention": "identity_attention."}
"""Names in a file of `save_identity`: identity parts that were trained for a base by ourselves."""


def load_flux_base(
    config: SwapModelConfig,
    *,
    transformer: Path,
    codec: Path,
    identity: Path,
    prompts: StoredPrompts,
    sha256: str,
    former: IdFormerConfig | None = None,
    device: str = "cpu",
) -> SwapBase:
    """Assemble a base in the config's precision, frozen, in evaluation mode. Text encoders play no part.

    Args:
        config: sizes; what the files hold must agree with them.
        transformer: folder that holds `transformer/` as diffusers saves it.
        codec: folder that holds `vae/`; often the same.
        identity: PuLID's file if `config.identity.encoder` is "tokens", else one of `save_identity`.
        prompts: both prompts' embeddings and the unconditional identity tokens.
        sha256: what the base is called in checkpoints; must cover all files that were named.
        former: sizes of PuLID's encoder, whose tensors are in the same file.
        device: where everything goes.

    Raises:
        BaseMismatch: one sentence that names the file and what in it differs.
    """
    folder, dtype = transformer / "transformer", DTYPES[config.base_dtype]
    # Built without memory: the random weights of a 12 B transformer would be thrown away at once.
    with torch.device("meta"):
        model = SwapTransformer(config)
    flux = load_folder(FluxTransformer2DModel, folder, dtype=dtype, device=device)
    wanted = config.transformer.model_dump(exclude={"text_tokens"})
    differing = [
        f"{name} is {flux.config[name]} instead of {value}"
        for name, value in wanted.items()
        if (tuple(flux.config[name]) if isinstance(value, tuple) else flux.config[name]) != value
    ]
    if differing:
        raise BaseMismatch(f"{folder} is not the transformer of {config.name}: {', '.join(differing)}")
    model.flux = flux
    if config.identity.encoder == "tokens":
        _load_pulid(model, identity, former or IdFormerConfig(), dtype)
    else:
        _load_own_identity(model, identity, dtype)
    set_prompts(model, prompts)
    loaded = load_flux_codec(codec, config.codec, config.base_dtype, device=device)
    model.requires_grad_(False).eval().to(device)
    return SwapBase(model, loaded, config, sha256)


def load_flux_codec(
    folder: Path, config: CodecConfig, precision: Precision, *, device: str = "cpu"
) -> AutoencoderKLCodec:
    """Load FLUX's autoencoder from `vae/` of a folder. Raises BaseMismatch if it is another one."""
    vae = load_folder(AutoencoderKL, folder / "vae", dtype=DTYPES[precision], device=device)
    # FLUX packs 2 x 2 latents into a token; every stage of the autoencoder but the last halves the picture.
    channels, patch = 4 * vae.config["latent_channels"], 2 ** len(vae.config["block_out_channels"])
    if (channels, patch) != (config.channels, config.patch_size):
        raise BaseMismatch(
            f"{folder / 'vae'} packs {patch} px into {channels} channels, the config says "
            f"{config.patch_size} px and {config.channels}"
        )
    return AutoencoderKLCodec(vae)


def pulid_shapes(attention: nn.Module, former: IdFormerConfig) -> dict[str, Shape]:
    """Names and shapes of PuLID's file: the encoder, and the cross-attentions, double blocks' first."""
    with torch.device("meta"):
        encoder = IdFormer(former)
    return {
        f"{prefix}{name}": tuple(value.shape)
        for prefix, module in ((PREFIX, encoder), (ATTENTION_PREFIX, attention))
        for name, value in module.state_dict().items()
    }


def save_identity(path: Path, model: SwapTransformer) -> None:
    """Write a model's own identity encoder and identity attention: trained parts for a base without PuLID.

    Raises ValueError for an encoder of ready tokens: there the parts are PuLID's.
    """
    if model.config.identity.encoder == "tokens":
        raise ValueError("the identity parts of this model are PuLID's own file")
    tensors = {
        f"{prefix}{name}": value.detach().float().cpu().contiguous()
        for part, prefix in OWN_PREFIXES.items()
        for name, value in model.get_submodule(part).state_dict().items()
    }
    save_file(tensors, path)


def _load_pulid(model: SwapTransformer, path: Path, former: IdFormerConfig, dtype: torch.dtype) -> None:
    """Check all of PuLID's file, load its cross-attentions; the encoder is a stage's business."""
    compare(path, pulid_shapes(model.identity_attention, former), file_shapes(path))
    _fill(model.identity_attention, path, ATTENTION_PREFIX, dtype)


def _load_own_identity(model: SwapTransformer, path: Path, dtype: torch.dtype) -> None:
    expected = {
        f"{prefix}{name}": tuple(value.shape)
        for part, prefix in OWN_PREFIXES.items()
        for name, value in model.get_submodule(part).state_dict().items()
    }
    compare(path, expected, file_shapes(path))
    # The encoder whitens embeddings, for which eight bits of mantissa are too few.
    _fill(model.identity_encoder, path, OWN_PREFIXES["identity_encoder"], torch.float32)
    _fill(model.identity_attention, path, OWN_PREFIXES["identity_attention"], dtype)


def _fill(module: nn.Module, path: Path, prefix: str, dtype: torch.dtype) -> None:
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(f"{prefix}{name}").to(dtype) for name in module.state_dict()}
    module.load_state_dict(state, assign=True)
