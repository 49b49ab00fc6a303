"""Photographs as network inputs: resized, in 0..1, and normalised by the mean colour of ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.faces.images import Image, require_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB in 0..1 over ImageNet, as every network pre-trained on it expects."""


def image_batch(images: Sequence[Image], size: tuple[int, int], device: torch.device) -> Tensor:
    """A batch of photographs of any sizes at one size, (B, 3, height, width) float32 RGB in 0..1.

    Pixels are averaged when a photograph shrinks, so that reduction does not alias, and interpolated
    linearly when it grows. The aspect ratio is not kept.

    Args:
        images: uint8 (H, W, 3) each.
        size: (height, width).
        device: where the batch is wanted.

    Raises:
        ValueError: no image, or one that is not uint8 RGB.
    """
    if not images:
        raise ValueError("there is no image to make a batch of")
    height, width = size
    frames = []
    for index, image in enumerate(images):
        picture = require_rgb(image, f"image {index}")
        if picture.shape[:2] != size:
            shrinks = picture.shape[0] > height or picture.shape[1] > width
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(picture, (width, height), interpolation=interpolation)
        frames.append(picture)
    pixels = torch.from_numpy(np.ascontiguousarray(np.stack(frames))).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255


def imagenet_normalised(x_B3HW: Tensor) -> Tensor:
    """(x - mean) / std per channel of RGB in 0..1; differentiable."""
    mean = x_B3HW.new_tensor(IMAGENET_MEAN)[:, None, None]
    return (x_B3HW - mean) / x_B3HW.new_tensor(IMAGENET_STD)[:, None, None]


def device_of(network: nn.Module) -> torch.device:
    """The device a network's parameters are on."""
    return next(network.parameters()).device
