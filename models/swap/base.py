"""Base weights: our own one-file checkpoints, and folders of FLUX with PuLID's identity attention."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.swap.checkpoint import file_sha256
from models.swap.codec import AutoencoderKLCodec, LatentCodec, PatchCodec
from models.swap.config import SwapModelConfig
from models.swap.constants import CONFIG_NAME, CONSTANTS_NAME, IDENTITY_NAME
from models.swap.transformer import SwapTransformer

FORMAT = "orchard-swap-base-1"
METADATA_KEY = "orchard"


class BaseMismatch(ValueError):
    """Base weights do not fit; the message names the file and the tensors."""


@dataclass(frozen=True)
class SwapBase:
    """A loaded base: the transformer in eval mode without gradients, the codec, and the weights' SHA-256."""

    model: SwapTransformer
    codec: LatentCodec
    config: SwapModelConfig
    sha256: str

    def black_latents_LC(self) -> Tensor:
        """Return the latents (L, C) of a black image: what "no condition" looks like in training."""
        size = self.config.image_size
        return self.codec.encode(np.zeros((1, size, size, 3), np.uint8))[0]


def save_base(path: Path, model: SwapTransformer, codec: PatchCodec) -> None:
    """Write model and patch codec to one file; weights as float16, statistics and prompts as float32."""
    parts = {"model": model, "codec": codec}
    tensors: dict[str, Tensor] = {}
    for part, module in parts.items():
        learned = {name for name, _ in module.named_parameters()}
        for name, value in module.state_dict().items():
            dtype = torch.float16 if name in learned else torch.float32
            tensors[f"{part}.{name}"] = value.detach().to("cpu", dtype).contiguous()
    # One key alone: safetensors writes several in random order, and equal weights must give equal files.
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, "config": model.config.model_dump(mode="json")})}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata=metadata)
    unfinished.replace(path)


def load_base(path: Path, *, device: str = "cpu") -> SwapBase:
    """Load a base: a file of `save_base` in float32, or a folder of FLUX weights in the config's precision.

    A folder holds `swap_model.json` (a `SwapModelConfig`), `transformer/` and `vae/` as diffusers saves them,
    `identity.safetensors` (PuLID-FLUX) and `constants.safetensors` (both prompts' embeddings, empty one
    first, and the unconditional identity tokens).

    Raises FileNotFoundError, or BaseMismatch naming missing, unexpected or wrongly shaped tensors.
    """
    base = _load_folder(path) if path.is_dir() else _load_file(path)
    base.model.requires_grad_(False).eval().to(device)
    cast(nn.Module, base.codec).requires_grad_(False).eval().to(device)
    return base


def _load_file(path: Path) -> SwapBase:
    if not path.is_file():
        raise FileNotFoundError(f"no base weights at {path}")
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    if metadata.get("format") != FORMAT:
        raise BaseMismatch(
            f"{path} is no base of format {FORMAT}: its metadata says {metadata.get('format')}"
        )
    config = SwapModelConfig.model_validate(metadata["config"])
    model, codec = SwapTransformer(config), PatchCodec(config.codec)
    tensors = {name: value.float() for name, value in load_file(path).items()}
    _load_part(model, tensors, "model.", path)
    _load_part(codec, tensors, "codec.", path)
    return SwapBase(model, codec, config, file_sha256(path))


def _load_folder(path: Path) -> SwapBase:
    text = (path / CONFIG_NAME).read_text(encoding="utf-8")
    config = SwapModelConfig.model_validate_json(text)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.base_dtype]
    flux = FluxTransformer2DModel.from_pretrained(path / "transformer", torch_dtype=dtype)
    vae = AutoencoderKL.from_pretrained(path / "vae", torch_dtype=dtype)
    # Built without memory first: the random weights of a 12 B transformer would be thrown away at once.
    with torch.device("meta"):
        model = SwapTransformer(config)
    expected = {name: tuple(value.shape) for name, value in model.flux.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in flux.state_dict().items()}
    if expected != found:
        differing = [n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]
        raise BaseMismatch(f"{path / 'transformer'} differs from {CONFIG_NAME} in {_some(differing)}")
    model.flux = flux
    model.identity_attention.to_empty(device="cpu")
    model.identity_encoder.to_empty(device="cpu")
    model.prompts.to_empty(device="cpu")
    identity = load_file(path / IDENTITY_NAME)
    _load_part(model.identity_attention, identity, "pulid_ca.", path / IDENTITY_NAME)
    constants = load_file(path / CONSTANTS_NAME)
    prompts = {"tokens": constants["prompt_tokens"], "pooled": constants["prompt_pooled"]}
    _load_part(model.prompts, prompts, "", path / CONSTANTS_NAME)
    unconditional = {"unconditional_tokens": constants["unconditional_tokens"]}
    _load_part(model.identity_encoder, unconditional, "", path / CONSTANTS_NAME)
    model.identity_attention.to(dtype)
    codec = AutoencoderKLCodec(vae)
    return SwapBase(model, codec, config, _folder_sha256(path))


def _load_part(module: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    expected = module.state_dict()
    complaints = []
    if missing := expected.keys() - own.keys():
        complaints.append(f"missing {_some(missing)}")
    if unexpected := own.keys() - expected.keys():
        complaints.append(f"unexpected {_some(unexpected)}")
    common = expected.keys() & own.keys()
    if reshaped := [name for name in common if expected[name].shape != own[name].shape]:
        complaints.append(f"wrong shapes {_some(reshaped)}")
    if complaints:
        raise BaseMismatch(f"{path} does not fit its config, under '{prefix}': {'; '.join(complaints)}")
    module.load_state_dict(own)


def _folder_sha256(path: Path) -> str:
    """Hash the list of all files with their hashes."""
    lines = [
        f"{file.relative_to(path).as_posix()} {file_sha256(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
