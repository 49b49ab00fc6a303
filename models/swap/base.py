"""A base, and our own one-file form of it; FLUX's folders are read by `models.swap.flux_base`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.swap.checkpoint import file_sha256
from models.swap.codec import LatentCodec, PatchCodec
from models.swap.config import SwapModelConfig
from models.swap.mismatch import BaseMismatch, compare
from models.swap.one_file import FORMAT, METADATA_KEY, load_parts, stored_config
from models.swap.text import StoredPrompts
from models.swap.transformer import SwapTransformer

OPEN_FIELDS = frozenset({"name", "condition", "lora"})
"""Of a model's config: what is trained on a base decides these, not the base's weights."""


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


def load_base(
    path: Path,
    config: SwapModelConfig | None = None,
    *,
    prompts: StoredPrompts | None = None,
    device: str = "cpu",
) -> SwapBase:
    """Load a file of `save_base` in float32, frozen, in evaluation mode.

    Args:
        path: the file.
        config: what the base is used as; its condition branch and LoRA settings count, and its sizes must be
            those of the file. None takes all from the file.
        prompts: used in place of the prompts in the file.
        device: where everything goes.

    Raises:
        FileNotFoundError: there is no such file.
        BaseMismatch: it is no base, or missing, unexpected or wrongly shaped tensors are named.
    """
    stored = stored_config(path)
    if config is not None:
        ours, theirs = (item.model_dump(exclude=set(OPEN_FIELDS)) for item in (config, stored))
        if differing := [name for name in ours if ours[name] != theirs[name]]:
            raise BaseMismatch(f"{path} is another base than {config.name}: {', '.join(differing)} differ")
    config = config or stored
    model, codec = SwapTransformer(config), PatchCodec(config.codec)
    tensors = {name: value.float() for name, value in load_file(path).items()}
    load_parts({"model": model, "codec": codec}, tensors, path)
    if prompts is not None:
        set_prompts(model, prompts)
    model.requires_grad_(False).eval().to(device)
    codec.eval().to(device)
    return SwapBase(model, codec, config, file_sha256(path))


def set_prompts(model: SwapTransformer, prompts: StoredPrompts) -> None:
    """Give a model its prompts, and PuLID's tokens of "nobody" where it takes ready tokens.

    Raises BaseMismatch if they are of another shape, or were made for another kind of identity encoder.
    """
    given = {"tokens": prompts.tokens_2TD, "pooled": prompts.pooled_2D}
    if prompts.unconditional_TD is not None:
        given["unconditional_tokens"] = prompts.unconditional_TD
    owners: dict[str, nn.Module] = {"tokens": model.prompts, "pooled": model.prompts}
    if model.config.identity.encoder == "tokens":
        owners["unconditional_tokens"] = model.identity_encoder
    compare(
        Path("prompt embeddings"),
        {name: tuple(owner.get_buffer(name).shape) for name, owner in owners.items()},
        {name: tuple(value.shape) for name, value in given.items()},
    )
    for name, owner in owners.items():
        # Assigned, not copied into: the model may have been built without memory.
        setattr(owner, name, given[name].float())
