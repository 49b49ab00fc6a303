"""The networks around the transformer, built without weights to be counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.swap.codec import LatentCodec, PatchCodec
from models.swap.codec_autoencoder import AutoencoderKLCodec
from models.swap.config import SwapModelConfig
from models.swap.cost_counting import Count, count_module, on_meta, parameter_count, zeros

FLUX_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Shape of FLUX's autoencoder, as published with FLUX.1."""

T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "use_cache": False,
}
"""Shape of FLUX's second text encoder, the encoder half of T5 1.1 XXL."""

CLIP_L_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
"""Shape of FLUX's first text encoder, the text half of CLIP ViT-L/14."""


@dataclass(frozen=True)
class NetworkCost:
    """A network at the size of input it gets."""

    name: str
    parameters: int
    forward: Count


@dataclass(frozen=True)
class LossNetworks:
    """Networks that look at decoded pictures in training; frozen, but gradients pass through them."""

    identity: str | None = None
    perceptual: bool = False
    _built: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)

    def modules(self) -> list[nn.Module]:
        """The networks on meta: the identity's first, then LPIPS."""
        if not self._built:
            if self.identity is not None:
                self._built.append(on_meta(IDENTITY_NETWORKS[self.identity][0]))
            if self.perceptual:
                self._built.append(on_meta(_lpips))
            for module in self._built:
                module.requires_grad_(False)
        return self._built

    def tensors(self) -> list[Tensor]:
        """Their weights."""
        return [item for module in self.modules() for item in (*module.parameters(), *module.buffers())]

    def loss(self, pictures_B3HW: Tensor) -> Tensor:
        """A scalar that costs what both losses cost; the face crop is a resize here."""
        total = pictures_B3HW.new_zeros(())
        modules = iter(self.modules())
        if self.identity is not None:
            side = IDENTITY_NETWORKS[self.identity][1]
            total = total + next(modules)(F.interpolate(pictures_B3HW, (side, side))).sum()
        if self.perceptual:
            truth = torch.zeros_like(pictures_B3HW).detach()
            total = total + next(modules)(pictures_B3HW, truth).sum()
        return total if self.identity or self.perceptual else pictures_B3HW.sum()


def _simswap() -> nn.Module:
    from models.identity.simswap_arcface import SimSwapArcFace

    return SimSwapArcFace()


def _ir_se50() -> nn.Module:
    from models.identity.ir_se50 import IrSe50

    return IrSe50()


def _dlib() -> nn.Module:
    from models.identity.dlib_resnet import DlibFaceNet

    return DlibFaceNet()


def _world() -> nn.Module:
    from models.identity.world_embedder import WorldNetwork

    return WorldNetwork()


def _lpips() -> nn.Module:
    from models.metrics.lpips import LayerWeights, LpipsVgg, VggFeatures

    return LpipsVgg(VggFeatures(), LayerWeights())


IDENTITY_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "simswap_arcface": (_simswap, 112),
    "ir_se50": (_ir_se50, 112),
    "dlib": (_dlib, 150),
    "world": (_world, 64),
}
"""Networks of the identity loss, and the side of their input."""


def build_codec(config: SwapModelConfig) -> LatentCodec:
    """The profile's codec on meta, its weights frozen."""
    if config.codec.kind == "patch":
        return cast(LatentCodec, on_meta(lambda: PatchCodec(config.codec)))
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.base_dtype]
    vae = on_meta(lambda: AutoencoderKL(in_channels=3, out_channels=3, **FLUX_VAE))
    for module in vae.children():  # its own `to` warns about parts that stay float32, of which it has none
        module.to(dtype)
    vae.requires_grad_(False)
    return cast(LatentCodec, AutoencoderKLCodec(cast(AutoencoderKL, vae)))


def text_encoder_costs(text_tokens: int) -> tuple[NetworkCost, ...]:
    """FLUX's two text encoders, on one prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5 = on_meta(lambda: T5EncoderModel(T5Config(**T5_XXL)), torch.bfloat16)
    clip = on_meta(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L_TEXT)), torch.bfloat16)
    return tuple(
        NetworkCost(name, parameter_count(module), count_module(module, zeros(1, length, dtype=torch.long)))
        for name, module, length in (("T5-XXL", t5, text_tokens), ("CLIP-L text", clip, 77))
    )


@cache
def annotation_network(name: str) -> NetworkCost:
    """One of `ANNOTATION_NETWORKS`, of the published shape; KeyError for another."""
    build, run = ANNOTATION_NETWORKS[name]
    module = on_meta(build)
    return NetworkCost(name, parameter_count(module), run(module))


def _picture(side: int) -> Callable[[nn.Module], Count]:
    return lambda module: count_module(module, zeros(1, 3, side, side))


def _bisenet() -> nn.Module:
    from models.faces.bisenet import BiSeNet

    return BiSeNet()


def _deeplab() -> nn.Module:
    from models.faces.deeplab import DeepLabV3Plus

    return DeepLabV3Plus()


def _reconstruction() -> nn.Module:
    from models.faces.network_sizes import RESNET50
    from models.faces.reconstruction.network import ReconstructionNet

    return ReconstructionNet(RESNET50)


def _clip_aesthetics() -> nn.Module:
    from models.aesthetics.clip_network import ClipAesthetics

    return ClipAesthetics()


def _eva_clip() -> nn.Module:
    from models.identity.eva_clip import EvaClipVision

    return EvaClipVision()


def _id_former() -> nn.Module:
    from models.identity.id_former import IdFormer

    return IdFormer()


def _run_id_former(module: nn.Module) -> Count:
    from models.identity.network_sizes import EvaClipConfig, IdFormerConfig

    sizes, tower = IdFormerConfig(), EvaClipConfig()
    hidden = [zeros(1, tower.tokens, sizes.feature_dim) for _ in range(sizes.scales)]
    return count_module(module, zeros(1, sizes.id_dim), hidden)


ANNOTATION_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Count]]] = {
    "BiSeNet": (_bisenet, _picture(512)),
    "DeepLabV3+": (_deeplab, _picture(512)),
    "3DDFA-V3 ResNet-50": (_reconstruction, _picture(224)),
    "CLIP ViT-L/14 aesthetics": (_clip_aesthetics, _picture(224)),
    "EVA02-CLIP-L-336": (_eva_clip, _picture(336)),
    "PuLID IDFormer": (_id_former, _run_id_former),
    "dlib ResNet": (_dlib, _picture(150)),
    "world's embedder": (_world, _picture(64)),
    "SimSwap ArcFace": (_simswap, _picture(112)),
    "IR-SE50": (_ir_se50, _picture(112)),
}
"""Builders, and how each is run on one face or photograph."""
