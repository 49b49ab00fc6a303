"""A deeper transformer out of a trained one: it computes the same at first, and then learns on.

Blocks that are added are copies of the one before them whose output is silent, so that the first step of the
deeper one's training starts where the shallower one's ended.
"""

from __future__ import annotations

import torch

from models.swap.transformer import SwapTransformer


class CannotGrow(ValueError):
    """The sizes of both transformers differ in more than the number of single blocks."""


def grow(model: SwapTransformer, earlier: SwapTransformer) -> list[int]:
    """Fill `model` with the weights of `earlier`, spread over its single blocks; both give the same velocity.

    Returns the single blocks of `model` that are new. Identity attention is to follow every block in both.

    Raises CannotGrow when anything but the number of single blocks differs, or it is lower than before.
    """
    config, old = model.config, earlier.config
    blocks, former = config.transformer.num_layers, old.transformer.num_single_layers
    singles = config.transformer.num_single_layers
    same = old.model_copy(
        update={"transformer": old.transformer.model_copy(update={"num_single_layers": singles})}
    )
    every_block = (config.identity.double_interval, config.identity.single_interval) == (1, 1)
    if (
        singles < former
        or same.model_dump(exclude={"name"}) != config.model_dump(exclude={"name"})
        or not every_block
    ):
        raise CannotGrow(
            f"a transformer of {former} single blocks cannot become this one of {singles}: only more of them "
            "may be added, each with its identity attention"
        )
    places = [block * singles // former for block in range(former)]
    new = [block for block in range(singles) if block not in places]
    origin = {block: max(i for i, place in enumerate(places) if place <= block) for block in range(singles)}
    known = earlier.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        head, _, rest = name.partition("single_transformer_blocks.")
        if rest:
            block, _, tail = rest.partition(".")
            source = f"{head}single_transformer_blocks.{origin[int(block)]}.{tail}"
            silent = int(block) in new and tail.startswith("proj_out.")
        elif name.startswith("identity_attention."):
            _, attention, tail = name.split(".", 2)
            single = int(attention) - blocks
            source = name if single < 0 else f"identity_attention.{blocks + origin[single]}.{tail}"
            silent = single in new and tail == "to_out.weight"
        else:
            source, silent = name, False
        state[name] = torch.zeros_like(value) if silent else known[source].clone()
    model.load_state_dict(state)
    return new
