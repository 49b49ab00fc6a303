"""LoRA files in the layout OminiControl and APPLE publish: `default.safetensors`, keys
`transformer.<module>.lora_A.weight`.

Diffusers only warns about keys that do not fit. Here they are errors, for a LoRA that half fits swaps half a
face.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.swap.transformer import ADAPTER, SwapTransformer

FILE_NAME = "default.safetensors"
PREFIX = "transformer."
"""As published, and as diffusers' pipelines write it."""

OTHER_PREFIXES = ("base_model.model.", "")
"""As peft writes it, and as diffusers' `save_lora_adapter` does. A file has one prefix throughout."""

ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the settings of adapters; the layout itself says nothing of alpha."""

NAMES_SHOWN = 6


class LoraMismatch(ValueError):
    """A LoRA file does not fit the model; the message names the tensors."""


def lora_state(model: SwapTransformer) -> dict[str, Tensor]:
    """Return the adapters in file layout, copied to the CPU; empty if the model has none."""
    return {
        _file_key(name): parameter.detach().cpu().clone().contiguous()
        for name, parameter in model.lora_parameters().items()
    }


def save_lora(state: Mapping[str, Tensor], path: Path) -> None:
    """Write adapters to one safetensors file."""
    save_file(dict(state), path, metadata={"format": "pt"})


def read_lora(path: Path) -> dict[str, Tensor]:
    """Read a LoRA file, or the `default.safetensors` of a folder; keys come back with `transformer.`.

    Accepted are keys `<prefix><module>.lora_A.weight` and `.lora_B.weight` with one prefix for all of them:
    `transformer.`, peft's `base_model.model.`, or none.

    Raises FileNotFoundError, or LoraMismatch if the file holds anything else than such adapters, or says of
    itself that its alpha is not its rank.
    """
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no LoRA file at {path}")
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise LoraMismatch(f"{path} is no readable safetensors file: {error}") from error
    strangers = [key for key in state if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strangers or not state:
        raise LoraMismatch(
            f"{path} holds tensors that are no LoRA of a transformer: {_some(strangers) or 'none'}; accepted "
            f"are {_forms()}"
        )
    _check_alpha(path, metadata)
    return _with_published_prefix(state, path)


def apply_lora(model: SwapTransformer, state: Mapping[str, Tensor]) -> None:
    """Put adapters into the model; modules without adapters get them first, of the file's rank.

    Adapters stay float32 whatever precision the file has.

    Raises LoraMismatch naming every kind of misfit: missing, unexpected, or wrongly shaped tensors.
    """
    if not model.has_lora:
        ranks = {tensor.shape[0] for key, tensor in state.items() if ".lora_A." in key}
        if len(ranks) != 1:
            raise LoraMismatch(f"adapters of one rank are needed, found ranks {sorted(ranks)}")
        rank = ranks.pop()
        config = model.config.lora
        # Scale is alpha / rank; the published files carry neither, and were trained with alpha = rank.
        alpha = config.alpha if rank == config.rank else rank
        model.add_lora(config.model_copy(update={"rank": rank, "alpha": alpha}), seed=0)
    parameters = {_file_key(name): parameter for name, parameter in model.lora_parameters().items()}
    complaints = []
    if missing := sorted(parameters.keys() - state.keys()):
        complaints.append(f"missing {_some(missing)}")
    if unexpected := sorted(state.keys() - parameters.keys()):
        complaints.append(f"unexpected {_some(unexpected)}")
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(parameters[key].shape)}"
        for key in sorted(parameters.keys() & state.keys())
        if state[key].shape != parameters[key].shape
    ]
    if shapes:
        complaints.append(f"wrong shapes {_some(shapes)}")
    if complaints:
        raise LoraMismatch("the LoRA does not fit this model: " + "; ".join(complaints))
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(state[key])


def _with_published_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    prefix = next(item for item in (PREFIX, *OTHER_PREFIXES) if next(iter(state)).startswith(item))
    known = tuple(item for item in (PREFIX, *OTHER_PREFIXES) if item)
    bare = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if len(bare) != len(state) or any(key.startswith(known) for key in bare):
        odd = [key for key in state if not key.startswith(prefix) or key[len(prefix) :].startswith(known)]
        raise LoraMismatch(
            f"{path} mixes prefixes: {_some(odd)}; accepted are {_forms()}, one form to a file"
        )
    return {PREFIX + key: tensor for key, tensor in bare.items()}


def _check_alpha(path: Path, metadata: Mapping[str, str]) -> None:
    """Refuse a file that states an alpha which is not its rank: it would be applied at another strength."""
    try:
        settings = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except ValueError as error:
        raise LoraMismatch(f"{path} describes its adapters in no readable JSON: {error}") from error
    told = {name.rpartition(".")[2]: value for name, value in settings.items()}
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if rank != alpha:
        raise LoraMismatch(
            f"{path} was trained with rank {rank} and alpha {alpha}; only alpha = rank is read: multiply its "
            f"lora_B by alpha / rank and save it without that setting"
        )


def _file_key(name: str) -> str:
    return PREFIX + name.replace(f".{ADAPTER}.", ".")


def _forms() -> str:
    forms = [f"{prefix}<module>.lora_A.weight" for prefix in (PREFIX, *OTHER_PREFIXES)]
    return ", ".join(forms) + " (and lora_B)"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
