"""What a swap model costs: tokens, parameters, operations and memory, counted on the meta device.

The networks are the real ones, built from the profile's own settings without weights. Blocks of a transformer
repeat, so a deep one is counted at three small depths and stretched. Operations are sums over blocks, and so
is what a backward pass keeps; a pass without gradients keeps nothing, and its peak is that of its busiest
block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.swap.codec import LatentCodec
from models.swap.condition_cache import ConditionCache
from models.swap.config import SwapModelConfig
from models.swap.cost_counting import Count, count, on_meta, parameter_count, zeros
from models.swap.cost_networks import LossNetworks, build_codec
from models.swap.text import TextEmbedding
from models.swap.transformer import SwapTransformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEEP = 12
"""Transformers with more blocks than this are counted at small depths and stretched."""

BYTES_PER_ADAPTER_NUMBER = 4
"""Adapters, their gradients and moments are float32 under any base."""


@dataclass(frozen=True)
class TrainingCost:
    """One sample through a training step: forward, losses, backward."""

    plain: Count
    checkpointed: Count
    decoded: Count
    decoded_checkpointed: Count

    def of(self, *, checkpointing: bool, decoding: bool) -> Count:
        """The step with or without gradient checkpointing, with or without both losses on the picture."""
        if decoding:
            return self.decoded_checkpointed if checkpointing else self.decoded
        return self.checkpointed if checkpointing else self.plain


@dataclass(frozen=True)
class ModelCost:
    """Counts of one model; all are for one picture at the profile's size."""

    config: SwapModelConfig
    parameters: Mapping[str, int]
    forward: Count
    forward_short_text: Count
    independent: Count
    cached: Count
    condition_once: Count
    encode: Count
    decode: Count
    training: TrainingCost

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of each branch, and of one evaluation."""
        image = self.config.image_tokens
        text = self.config.transformer.text_tokens
        return {"text": text, "image": image, "condition": image, "all": text + 2 * image}

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the frozen weights, in the base's precision, and of the float32 adapters."""
        size = 2 if self.config.base_dtype == "bfloat16" else 4
        return {
            name: number * (BYTES_PER_ADAPTER_NUMBER if name == "lora" else size)
            for name, number in self.parameters.items()
        }

    def sampling(self, passes: int, *, cached: bool = False) -> int:
        """Operations of so many passes; a cached condition comes on top once.

        The black picture that image guidance contrasts with is a condition of its own, and not counted apart.
        """
        if cached:
            return passes * self.cached.flops + self.condition_once.flops
        return passes * self.forward.flops


def short_text_tokens(config: SwapModelConfig) -> int:
    """A quarter of the prompt's tokens: what a shorter text would leave."""
    return max(1, config.transformer.text_tokens // 4)


def model_cost(config: SwapModelConfig, losses: LossNetworks = LossNetworks()) -> ModelCost:
    """Count everything about one model; `losses` are the networks that look at decoded pictures."""
    codec = build_codec(config)
    text_tokens = config.transformer.text_tokens
    independent = config.model_copy(
        update={"condition": config.condition.model_copy(update={"independent_condition": True})}
    )
    short_tokens = short_text_tokens(config)
    size = config.image_size

    def training(checkpointing: bool) -> tuple[Count, Count]:
        counted: dict[str, Count] = {}

        def step(small: SwapModelConfig) -> Count:
            key = small.model_dump_json()
            if key not in counted:
                counted[key] = _train(small, codec, losses, checkpointing, False)
            return counted[key]

        # Decoding comes after the last block: what it adds is the same at any depth.
        few = _fewest_blocks(config)
        (plain,) = _stretched(config, lambda small: (step(small),))
        return plain, plain + (_train(few, codec, losses, checkpointing, True) - step(few))

    picture = zeros(1, config.image_tokens, config.transformer.in_channels)
    codec_weights = [*cast(Any, codec).parameters(), *cast(Any, codec).buffers()]
    with torch.no_grad():
        encode = count(lambda: _encode(codec, size), codec_weights)
        decode = count(lambda: codec.decode_differentiable(picture), [*codec_weights, picture])
    (plain, decoded), (checkpointed, decoded_checkpointed) = training(False), training(True)
    forward, short_text = _stretched(
        config, lambda small: (_forward(small, text_tokens), _forward(small, short_tokens))
    )
    alone, cached, once = _stretched(
        independent, lambda small: (_forward(small, text_tokens), *_cached(small))
    )
    return ModelCost(
        config=config,
        parameters=_parameters(config, codec),
        forward=Count(forward.flops, _busiest(config)),
        forward_short_text=short_text,
        independent=alone,
        cached=cached,
        condition_once=once,
        encode=encode,
        decode=decode,
        training=TrainingCost(plain, checkpointed, decoded, decoded_checkpointed),
    )


def by_hand(config: SwapModelConfig) -> dict[str, float]:
    """TFLOP of the usual hand calculation: weights times tokens, scores times values; nothing else.

    12 d^2 weights per block and token (4 d^2 attention, 8 d^2 feed-forward), 4 L^2 d for attention, and the
    adapters on the condition's tokens. Backward: one more product per frozen weight, two per adapter, and two
    and a half attentions. It leaves out identity attention, embedders and modulation.
    """
    sizes = config.transformer
    depth, width = sizes.num_layers + sizes.num_single_layers, sizes.inner_dim
    image, tokens = config.image_tokens, 2 * config.image_tokens + sizes.text_tokens
    linear = 2 * 12 * width**2 * depth * tokens / 1e12
    attention = 4 * tokens**2 * width * depth / 1e12
    # inputs plus outputs of the adapted maps, in widths, without modulation: 15 (double), 17 (single)
    adapters = 2 * config.lora.rank * width * (13 * sizes.num_layers + 17 * sizes.num_single_layers)
    lora = adapters * image / 1e12
    forward = linear + attention + lora
    train = forward + linear + 2.5 * attention + 2 * lora
    return {"forward": forward, "train": train, "train_checkpointing": train + forward}


def _parameters(config: SwapModelConfig, codec: LatentCodec) -> dict[str, int]:
    model = cast(SwapTransformer, on_meta(lambda: SwapTransformer(config)))
    before = parameter_count(model.flux)
    with torch.device("meta"):
        model.add_lora(config.lora, seed=0)
    kinds = {
        "transformer": before,
        "identity attention": parameter_count(model.identity_attention),
        "identity encoder": parameter_count(model.identity_encoder),
        "codec": sum(item.numel() for item in cast(Any, codec).state_dict().values()),
        "lora": parameter_count(model.flux) - before,
    }
    return {name: number for name, number in kinds.items() if number}


def _resized(config: SwapModelConfig, double: int, single: int) -> SwapModelConfig:
    update = {"num_layers": double, "num_single_layers": single}
    return config.model_copy(update={"transformer": config.transformer.model_copy(update=update)})


def _fewest_blocks(config: SwapModelConfig) -> SwapModelConfig:
    """The shallowest model whose depth differs by whole periods of the identity attention."""
    sizes, identity = config.transformer, config.identity
    return _resized(
        config,
        (sizes.num_layers - 1) % identity.double_interval + 1,
        (sizes.num_single_layers - 1) % identity.single_interval + 1,
    )


def _stretched(
    config: SwapModelConfig, measure: Callable[[SwapModelConfig], tuple[Count, ...]], deep: int = DEEP
) -> tuple[Count, ...]:
    """Count at few blocks and go on in a straight line; shallow models are counted as they are."""
    sizes, identity = config.transformer, config.identity
    if sizes.num_layers + sizes.num_single_layers <= deep:
        return measure(config)
    few = _fewest_blocks(config)
    double, single = few.transformer.num_layers, few.transformer.num_single_layers
    start = measure(few)
    doubles = measure(_resized(config, double + identity.double_interval, single))
    singles = measure(_resized(config, double, single + identity.single_interval))
    double_periods = (sizes.num_layers - double) // identity.double_interval
    single_periods = (sizes.num_single_layers - single) // identity.single_interval
    return tuple(
        one + (more_double - one) * double_periods + (more_single - one) * single_periods
        for one, more_double, more_single in zip(start, doubles, singles, strict=True)
    )


def _model(config: SwapModelConfig) -> SwapTransformer:
    return _built(config.model_dump_json())


@cache
def _built(settings: str) -> SwapTransformer:
    """The transformer with adapters on meta, only they trainable, in the base's precision."""
    config = SwapModelConfig.model_validate_json(settings)
    model = cast(SwapTransformer, on_meta(lambda: SwapTransformer(config), DTYPES[config.base_dtype]))
    with torch.device("meta"):
        model.add_lora(config.lora, seed=0)
    model.requires_grad_(False)
    for parameter in model.lora_parameters().values():
        parameter.requires_grad_(True)
    return model


def _inputs(config: SwapModelConfig, text_tokens: int) -> dict[str, Any]:
    """Inputs of one row; latents and identity in float32, as the lake's."""
    sizes, identity = config.transformer, config.identity
    return {
        "latents_BLC": zeros(1, config.image_tokens, sizes.in_channels),
        "timestep_B": zeros(1),
        "text": TextEmbedding(
            zeros(1, text_tokens, sizes.joint_attention_dim), zeros(1, sizes.pooled_projection_dim)
        ),
        "condition_BLC": zeros(1, config.image_tokens, sizes.in_channels),
        "identity_BTD": zeros(1, identity.tokens, identity.token_dim),
    }


def _there(model: SwapTransformer, inputs: Mapping[str, Any]) -> list[Tensor]:
    tensors = [item for item in inputs.values() if isinstance(item, Tensor)]
    return [*model.parameters(), *model.buffers(), *tensors]


def _forward(config: SwapModelConfig, text_tokens: int) -> Count:
    model, inputs = _model(config), _inputs(config, text_tokens)
    with torch.no_grad():
        return count(lambda: model(**inputs), _there(model, inputs))


def _busiest(config: SwapModelConfig) -> int:
    """Peak of a pass without gradients, which does not grow with depth: that of a model with two periods."""
    few, identity = _fewest_blocks(config), config.identity
    sizes, whole = few.transformer, config.transformer
    double = min(whole.num_layers, sizes.num_layers + identity.double_interval)
    single = min(whole.num_single_layers, sizes.num_single_layers + identity.single_interval)
    return _forward(_resized(config, double, single), whole.text_tokens).peak_bytes


def _cached(config: SwapModelConfig) -> tuple[Count, Count]:
    """An evaluation that looks at what was kept of the condition, and keeping it once."""
    model, inputs = _model(config), _inputs(config, config.transformer.text_tokens)
    condition, text = inputs.pop("condition_BLC"), inputs["text"]
    there = _there(model, inputs)
    kept: list[ConditionCache] = []
    with torch.no_grad():
        once = count(lambda: kept.append(model.encode_condition(condition, text)), there)
        return count(lambda: model(**inputs, condition_cache=kept[0]), there), once


def _train(
    config: SwapModelConfig, codec: LatentCodec, losses: LossNetworks, checkpointing: bool, decoding: bool
) -> Count:
    model, inputs = _model(config), _inputs(config, config.transformer.text_tokens)
    noisy, timestep = inputs["latents_BLC"], inputs["timestep_B"]
    model.gradient_checkpointing = checkpointing

    def step() -> None:
        predicted = model(**inputs)
        loss = F.mse_loss(predicted, noisy)
        if decoding:
            pictures = codec.decode_differentiable(noisy - timestep[:, None, None] * predicted)
            loss = loss + losses.loss(pictures)
        torch.autograd.backward(loss)

    there = [*_there(model, inputs), *losses.tensors()]
    there += [*cast(Any, codec).parameters(), *cast(Any, codec).buffers()]
    found = count(step, there)
    for parameter in model.lora_parameters().values():
        parameter.grad = None
    return found


def _encode(codec: LatentCodec, size: int) -> object:
    """Encode one picture; `encode` of a codec takes pixels, which only their shape stands for here."""
    import numpy as np

    return codec.encode(np.zeros((1, size, size, 3), np.uint8))
