"""Reading published weights from safetensors files into networks, strictly.

A file fits or it does not: every tensor the network has must be in the file with exactly its shape, and the
file must hold nothing else. Files are never unpickled here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

KeyAdapter = Callable[[str], str | None]
"""Gives the network's name of a tensor from its name in the file; None means the tensor is not wanted."""

TRAINING_COUNTER = "num_batches_tracked"
"""Batch normalisation counts its training steps under this name. It has no influence on results, and older
files do not have it."""

NAMES_SHOWN = 4


class WeightMismatch(ValueError):
    """A weight file does not fit a network; the message names the first tensors that differ."""


def load_weights(network: nn.Module, path: str | Path, adapter: KeyAdapter | None = None) -> None:
    """Fill a network with the tensors of a safetensors file, freeze it and set it to evaluation mode.

    The network may have been made on `torch.device("meta")`: no memory is spent on random weights then. It
    is on the CPU afterwards. Numbers are converted to the network's own type.

    Args:
        network: freshly made.
        path: a safetensors file.
        adapter: renames the file's tensors to the network's.

    Raises:
        FileNotFoundError: there is no such file.
        WeightMismatch: names or shapes differ, two tensors of the file get one name, a tensor holds values
            that are not finite, or the file is no safetensors file. The network is unchanged then.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    wanted = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            sources = _sources(file.keys(), path, adapter)
            shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in sources.items()}
            _compare(network, shapes, path)
            state = {name: file.get_tensor(key).to(wanted[name].dtype) for name, key in sources.items()}
    except SafetensorError as error:
        raise WeightMismatch(f"{path} is no readable safetensors file: {error}") from error
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise WeightMismatch(f"{path}: {sources[name]} holds a value that is not finite; fetch it again")
    for name in wanted.keys() - state.keys():
        state[name] = torch.zeros_like(wanted[name], device="cpu")
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)


def _sources(keys: list[str], path: Path, adapter: KeyAdapter | None) -> dict[str, str]:
    """The file's name of every tensor by the network's name."""
    sources: dict[str, str] = {}
    for key in keys:
        name = key if adapter is None else adapter(key)
        if name is None:
            continue
        if name in sources:
            raise WeightMismatch(f"{path}: {sources[name]} and {key} are both the network's {name}")
        sources[name] = key
    return sources


def _compare(network: nn.Module, found: dict[str, tuple[int, ...]], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in found and name.rpartition(".")[2] != TRAINING_COUNTER]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("unknown", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise WeightMismatch(
            f"{path} does not fit {type(network).__name__}; tensors {'; '.join(problems)}. "
            "Is it the file of another network or variant?"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, ..."
