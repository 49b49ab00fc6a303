"""Files of the small networks that were trained on the procedural world.

One safetensors file that says which kind of network it is. Weights of more than one dimension are stored as
float16, everything else as float32; all are read as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

METADATA_KEY = "orchard"
COUNTER = "num_batches_tracked"
"""Of batch normalisation; it says how long a network was trained and is not stored."""


class NetworkFileError(ValueError):
    """The file is not the network it should be."""


def save_network(path: Path, network: nn.Module, kind: str, config: Mapping[str, Any]) -> None:
    """Write a network, its kind and its config (JSON) to one file, whole or not at all."""
    learned = {name for name, value in network.named_parameters() if value.ndim > 1}
    tensors = {
        name: value.detach().to("cpu", torch.float16 if name in learned else torch.float32).contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTER)
    }
    # One key alone: safetensors writes several in random order, and equal weights must give equal files.
    metadata = {METADATA_KEY: json.dumps({"format": kind, "config": dict(config)}, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata=metadata)
    unfinished.replace(path)


def read_network(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and the float32 tensors of a file of `save_network`.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: it cannot be read, or holds another kind of network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no network ({kind}) at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        tensors = {name: value.float() for name, value in load_file(path).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise NetworkFileError(f"{path} cannot be read as {kind}: {error}") from error
    if metadata.get("format") != kind:
        raise NetworkFileError(f"{path} has format {metadata.get('format')!r}, wanted is {kind!r}")
    return metadata["config"], tensors


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put a file's tensors into a network and freeze it, in evaluation mode.

    Raises:
        NetworkFileError: tensors are missing, unexpected or wrongly shaped.
    """
    counters = {name for name in network.state_dict() if name.endswith(COUNTER)}
    whole = {**tensors, **{name: torch.zeros((), dtype=torch.long) for name in counters}}
    try:
        network.load_state_dict(whole, strict=True)
    except RuntimeError as error:
        raise NetworkFileError(f"{path} does not fit its network: {error}") from error
    network.requires_grad_(requires_grad=False).eval()
