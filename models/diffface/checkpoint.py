"""Denoisers in files: the published ones, strictly, and our own, which carry their configuration."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from models.diffface.config import DenoiserConfig, published
from models.diffface.denoiser import Denoiser
from models.weight_files import WeightMismatch, load_weights

FORMAT = "orchard-diffface-denoiser-1"
METADATA_KEY = "orchard"
IDENTITY_PREFIX = "id_embed."


def load_published_denoiser(
    path: str | Path, config: DenoiserConfig | None = None, *, without_identity: bool = False
) -> Denoiser:
    """Read DiffFace's `Model.pt`, or a stock ADM to start training from, as a safetensors file.

    Args:
        path: the file; its tensors may have any precision.
        config: shape of the network, `published()` by default; its `torso_dtype` decides the precision.
        without_identity: accept a file in which exactly the four tensors of `id_embed` are missing. The
            identity MLP is then new, and its last layer is zero: until it is trained, the network is the
            file's.

    Returns:
        The network on the CPU, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        WeightMismatch: names or shapes differ, or it holds an identity MLP although none was expected.
    """
    with torch.device("meta"):
        denoiser = Denoiser(published() if config is None else config)
    if not without_identity:
        load_weights(denoiser, path)
        return denoiser
    if has_identity(path):
        raise WeightMismatch(
            f"{path} holds an identity MLP ({IDENTITY_PREFIX}*): load it with without_identity=False"
        )
    # Taken off, so that everything else is compared as strictly as ever.
    del denoiser.id_embed
    load_weights(denoiser, path)
    denoiser.id_embed = new_identity_embedding(denoiser.config)
    return denoiser.eval().requires_grad_(requires_grad=False)


def new_identity_embedding(config: DenoiserConfig) -> nn.Sequential:
    """An identity MLP whose answer is zero until it is trained."""
    width = config.embedding_dim
    last = nn.Linear(width, width)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Linear(config.identity_dim, width), nn.SiLU(), last)


def has_identity(path: str | Path) -> bool:
    """Whether a safetensors file holds any tensor of the identity MLP.

    Raises:
        FileNotFoundError: there is no such file.
        WeightMismatch: it is no safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(IDENTITY_PREFIX) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise WeightMismatch(f"{path} is no readable safetensors file: {error}") from error


def save_denoiser(path: Path, denoiser: Denoiser, dtype: torch.dtype = torch.float32) -> None:
    """Write a denoiser and its configuration to one safetensors file, whole or not at all.

    Args:
        path: the file; equal weights give equal files.
        denoiser: on any device.
        dtype: of weights with more than one dimension; biases and normalisations stay float32.
    """
    tensors = {
        name: value.detach().to("cpu", dtype if value.ndim > 1 else torch.float32).contiguous()
        for name, value in denoiser.state_dict().items()
    }
    # One key alone: safetensors writes several in random order.
    said = {"format": FORMAT, "config": denoiser.config.model_dump(mode="json")}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    save_file(tensors, unfinished, metadata={METADATA_KEY: json.dumps(said, sort_keys=True)})
    unfinished.replace(path)


def stored_config(path: str | Path) -> DenoiserConfig:
    """The configuration in a file of `save_denoiser`.

    Raises:
        FileNotFoundError: there is no such file.
        WeightMismatch: it is no such file, which a published one is not either.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except SafetensorError as error:
        raise WeightMismatch(f"{path} is no readable safetensors file: {error}") from error
    if said.get("format") != FORMAT:
        raise WeightMismatch(
            f"{path} has format {said.get('format')!r}, wanted is {FORMAT!r}; "
            "published files are read by load_published_denoiser"
        )
    return DenoiserConfig.model_validate(said["config"])


def load_denoiser(path: str | Path) -> Denoiser:
    """Read a file of `save_denoiser`: on the CPU, frozen, in evaluation mode. Raises as `stored_config`."""
    with torch.device("meta"):
        denoiser = Denoiser(stored_config(path))
    load_weights(denoiser, path)
    return denoiser
