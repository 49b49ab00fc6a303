"""Our own one-file form of a base, as far as it can be read without diffusers: config, codec, prompts.

Stages that only encode or decode load these in a moment; the transformer is read by `models.swap.base`.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.swap.codec import PatchCodec
from models.swap.config import SwapModelConfig
from models.swap.mismatch import BaseMismatch, compare
from models.swap.text import StoredPrompts

FORMAT = "orchard-swap-base-1"
METADATA_KEY = "orchard"


def load_patch_codec(path: Path, *, device: str = "cpu") -> PatchCodec:
    """Load nothing but the codec of a file of `save_base`. Raises as `stored_config`, and BaseMismatch."""
    codec = PatchCodec(stored_config(path).codec)
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("codec.")]  # noqa: SIM118
        tensors = {name: file.get_tensor(name).float() for name in names}
    load_parts({"codec": codec}, tensors, path)
    return codec.eval().to(device)


def stored_prompts(path: Path) -> StoredPrompts:
    """Return the prompts inside a file of `save_base`. Raises as `stored_config`, and BaseMismatch."""
    stored_config(path)
    with safe_open(path, framework="pt") as file:
        tokens, pooled = (file.get_tensor(f"model.prompts.{name}") for name in ("tokens", "pooled"))
    return StoredPrompts(tokens, pooled)


def stored_config(path: Path) -> SwapModelConfig:
    """Return the config in a file's metadata. Raises FileNotFoundError, or BaseMismatch if it is no base."""
    if not path.is_file():
        raise FileNotFoundError(f"no base weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except SafetensorError as error:
        raise BaseMismatch(f"{path} is no readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise BaseMismatch(
            f"{path} is no base of format {FORMAT}: its metadata says {metadata.get('format')}"
        )
    return SwapModelConfig.model_validate(metadata["config"])


def load_parts(parts: dict[str, nn.Module], tensors: dict[str, Tensor], path: Path) -> None:
    """Fill modules from tensors named `<part>.<name>`; BaseMismatch unless they are exactly those."""
    expected = {
        f"{part}.{name}": tuple(value.shape)
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    compare(path, expected, {name: tuple(value.shape) for name, value in tensors.items()})
    for part, module in parts.items():
        own = {n.removeprefix(f"{part}."): v for n, v in tensors.items() if n.startswith(f"{part}.")}
        module.load_state_dict(own)
