"""DeepLabV3+ on a dilated ResNet-101: where the face is visible, and where something hides it.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution" (2018), as MMSegmentation builds it and as
Voo et al., "Delving into High-Quality Synthetic Face Occlusion Segmentation Datasets" (2022), trained it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.faces.images import Image, Mask, require_rgb
from models.faces.network_inputs import device_of, image_batch, imagenet_normalised
from models.faces.network_sizes import DeepLabConfig
from models.faces.resnet import ResNet
from models.weight_files import KeyAdapter, load_weights

LONG_SIDE = 512
"""Photographs are brought to this long side, in pixels."""

SIDE_MULTIPLE = 32
"""Both sides are rounded up to a multiple of this."""

VISIBLE_CLASS = 1
"""Class 0 is everything else, class 1 the visible face."""


class NormalisedConvolution(nn.Sequential):
    """Convolution, normalisation, rectifier."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, dilation: int = 1, groups: int = 1
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(
                channels_in,
                channels_out,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class SeparableConvolution(nn.Sequential):
    """3x3 convolution of each channel by itself, then a 1x1 convolution across channels."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int = 1) -> None:
        super().__init__(
            NormalisedConvolution(channels_in, channels_in, 3, dilation, groups=channels_in),
            NormalisedConvolution(channels_in, channels_out, 1),
        )


class DeepLabV3Plus(nn.Module):
    """Encoder, atrous spatial pyramid, and a decoder that takes detail from the first stage.

    Tensor names are our own; `mmseg_key` translates the published ones.
    """

    def __init__(self, config: DeepLabConfig | None = None) -> None:
        super().__init__()
        config = DeepLabConfig() if config is None else config
        first, last, channels = config.backbone.channels[0], config.backbone.channels[-1], config.channels
        self.encoder = ResNet(config.backbone)
        self.image_level = NormalisedConvolution(last, channels, 1)
        self.pyramid = nn.ModuleList([NormalisedConvolution(last, channels, 1)])
        self.pyramid.extend(SeparableConvolution(last, channels, dilation) for dilation in config.dilations)
        self.pyramid_join = NormalisedConvolution((2 + len(config.dilations)) * channels, channels, 3)
        self.detail = NormalisedConvolution(first, config.detail_channels, 1)
        self.decoder = nn.Sequential(
            SeparableConvolution(channels + config.detail_channels, channels),
            SeparableConvolution(channels, channels),
        )
        self.classifier = nn.Conv2d(channels, config.classes, 1)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Logits at a quarter of the resolution; differentiable.

        Args:
            x_B3HW: (B, 3, H, W) RGB, normalised by ImageNet's mean and deviation; sides in multiples of 32.

        Returns:
            (B, classes, H / 4, W / 4).
        """
        first, _, _, last = self.encoder(x_B3HW)
        image = self.image_level(last.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *last.shape[2:])
        joined = self.pyramid_join(torch.cat([image, *(branch(last) for branch in self.pyramid)], dim=1))
        enlarged = functional.interpolate(joined, first.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(self.decoder(torch.cat([enlarged, self.detail(first)], dim=1)))


MMSEG_PREFIXES = (
    ("backbone.", "encoder."),
    ("decode_head.image_pool.1.", "image_level."),
    ("decode_head.aspp_modules.", "pyramid."),
    ("decode_head.bottleneck.", "pyramid_join."),
    ("decode_head.c1_bottleneck.", "detail."),
    ("decode_head.sep_bottleneck.", "decoder."),
    ("decode_head.conv_seg.", "classifier."),
)
"""MMSegmentation's names of the parts, and ours."""

MMSEG_LAYERS = {"depthwise_conv": "0", "pointwise_conv": "1", "conv": "0", "bn": "1"}
"""Names of layers inside the decode head; ours are places in a sequence."""

MMSEG_TRAINING_PREFIX = "auxiliary_head."
"""A head of deep supervision, which plays no part after training."""


def mmseg_key(key: str) -> str | None:
    """Our name of a tensor of a checkpoint by MMSegmentation (`state_dict`, 0.x and 1.x).

    Names of parts unknown here come back unchanged, so that `load_weights` reports them; None for the
    auxiliary head.
    """
    if key.startswith(MMSEG_TRAINING_PREFIX):
        return None
    for theirs, ours in MMSEG_PREFIXES:
        if key.startswith(theirs):
            rest = key.removeprefix(theirs)
            if theirs != "backbone.":
                rest = ".".join(MMSEG_LAYERS.get(part, part) for part in rest.split("."))
            return ours + rest
    return key


def load_deeplab(
    path: str | Path, adapter: KeyAdapter | None = mmseg_key, config: DeepLabConfig | None = None
) -> DeepLabV3Plus:
    """Read the published network, frozen and in evaluation mode, on the CPU.

    Args:
        path: safetensors file with the tensors of the checkpoint's `state_dict`.
        adapter: renames the file's tensors; the default takes MMSegmentation's names, None our own.
        config: shape of the network; the published one when left out.

    Raises:
        FileNotFoundError, WeightMismatch: see `models.weight_files.load_weights`.
    """
    with torch.device("meta"):
        network = DeepLabV3Plus(config)
    load_weights(network, path, adapter)
    return network


def network_size(height: int, width: int) -> tuple[int, int]:
    """The network's input (height, width) for a photograph: long side 512, sides rounded up to 32."""
    scale = LONG_SIDE / max(height, width)

    def rounded(side: int) -> int:
        return ceil(max(1, round(side * scale)) / SIDE_MULTIPLE) * SIDE_MULTIPLE

    return rounded(height), rounded(width)


class VisibleFace:
    """Photographs to masks of the visible face; runs where the network is.

    Args:
        network: with the classes "other" and "visible face".
    """

    def __init__(self, network: DeepLabV3Plus) -> None:
        self._network = network.eval()
        self._device = device_of(network)

    def masks(self, images: Sequence[Image]) -> list[Mask]:
        """Where a face is visible, bool (H, W) for each photograph; `parsing.pack_mask` packs them.

        Photographs with the same network size share one pass. Logits are resized bilinearly to the
        photograph before the classes are compared.

        Args:
            images: uint8 RGB (H, W, 3), of any sizes.
        """
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            height, width = require_rgb(image, f"image {index}").shape[:2]
            sizes.setdefault(network_size(height, width), []).append(index)
        found: dict[int, Mask] = {}
        for size, indices in sizes.items():
            with torch.inference_mode():
                x_B3HW = image_batch([images[index] for index in indices], size, self._device)
                logits_BKHW = self._network(imagenet_normalised(x_B3HW))
                full_BKHW = functional.interpolate(logits_BKHW, size, mode="bilinear", align_corners=False)
                for index, logits_KHW in zip(indices, full_BKHW, strict=True):
                    found[index] = _visible(logits_KHW, images[index].shape[:2])
        return [found[index] for index in range(len(images))]


def _visible(logits_KHW: Tensor, size: tuple[int, ...]) -> Mask:
    logits = functional.interpolate(logits_KHW[None], size, mode="bilinear", align_corners=False)[0]
    return (logits.argmax(dim=0) == VISIBLE_CLASS).cpu().numpy().astype(np.bool_)
