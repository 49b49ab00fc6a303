"""Parts of FLUX as diffusers saves them, read strictly into diffusers' own classes.

`from_pretrained` leaves tensors that a file lacks at random values and only logs it. Here names and shapes of
all shards are compared first, and nothing is left to chance. Weights go from the file to their device one
tensor at a time: a 12 B transformer never needs twice its memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open

from models.swap.mismatch import BaseMismatch, Shape, compare, some

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

Part = TypeVar("Part", FluxTransformer2DModel, AutoencoderKL)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the part's `config.json`. Raises BaseMismatch if there is none."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseMismatch(f"{path} cannot be read ({error}); fetch the folder again") from error


def load_folder(kind: type[Part], folder: Path, *, dtype: torch.dtype, device: str = "cpu") -> Part:
    """Load a part from one safetensors file or from shards, frozen, in evaluation mode.

    Raises:
        BaseMismatch: no config, a missing shard, a damaged file, or tensors that differ from the config's.
    """
    config = {name: value for name, value in read_config(folder).items() if not name.startswith("_")}
    with torch.device("meta"):
        part = kind.from_config(config)
    assert isinstance(part, kind)  # diffusers types it as a tuple, too
    expected = {name: tuple(value.shape) for name, value in part.state_dict().items()}
    files = weight_files(folder)
    places: dict[str, Path] = {}
    found: dict[str, Shape] = {}
    for path in files:
        shapes = file_shapes(path)
        found |= shapes
        places |= dict.fromkeys(shapes, path)
    compare(folder, expected, found)
    state: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt", device=device) as file:
            state |= {name: file.get_tensor(name).to(dtype) for name in places if places[name] == path}
    part.load_state_dict(state, assign=True)
    part.requires_grad_(False).eval()
    return part


def weight_files(folder: Path) -> list[Path]:
    """Return the part's safetensors files: one, or the shards that its index names, all of them there."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).is_file():
            raise BaseMismatch(f"{folder} holds neither {WEIGHTS} nor {INDEX}; fetch it again")
        return [folder / WEIGHTS]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise BaseMismatch(f"{index} cannot be read ({error}); fetch it again") from error
    if absent := [name for name in shards if not (folder / name).is_file()]:
        raise BaseMismatch(
            f"{folder} lacks {len(absent)} of the {len(shards)} shards that its index names: "
            f"{some(absent)}; fetch it again"
        )
    return [folder / name for name in shards]


def file_shapes(path: Path) -> dict[str, Shape]:
    """Return shapes by tensor name from a safetensors file's header; BaseMismatch if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BaseMismatch(f"{path} is absent or no readable safetensors file: {error}") from error
