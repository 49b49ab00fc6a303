"""Between images and packed latent tokens: what a codec is, and a linear patch codec."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.swap.config import CodecConfig

Images = NDArray[np.uint8]
"""Images, (B, H, W, 3) uint8 RGB."""


class LatentCodec(Protocol):
    """Images to packed latent tokens (B, L, C) float32 of about unit variance, rows of tokens first, and
    back.
    """

    def encode(self, images_NHWC: Images) -> Tensor:
        """Return the packed latents of uint8 RGB images."""
        ...

    def decode(self, latents_NLC: Tensor) -> Images:
        """Return uint8 RGB images, rounded and clipped."""
        ...

    def decode_differentiable(self, latents_NLC: Tensor) -> Tensor:
        """Return images (B, 3, H, W), nominally 0..1 and not clipped, with gradients."""
        ...


def images_to_tensor(images_NHWC: Images, device: torch.device | None = None) -> Tensor:
    """Return (B, 3, H, W) float32 in 0..1; TypeError unless the images are (B, H, W, 3) uint8."""
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[-1] != 3:
        raise TypeError(f"need (N, H, W, 3) uint8 images, got {images_NHWC.shape} {images_NHWC.dtype}")
    return torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(device).permute(0, 3, 1, 2).float() / 255.0


def tensor_to_images(images_BCHW: Tensor) -> Images:
    """Return uint8 (B, H, W, 3) from (B, 3, H, W) in 0..1, rounded and clipped."""
    scaled = (images_BCHW.detach().float() * 255.0).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """Return (B, H/p x W/p, C p p): tokens by rows, channel-major inside a token, as FLUX packs latents."""
    batch, channels, height, width = x_BCHW.shape
    if height % patch or width % patch:
        raise ValueError(f"{height} x {width} is no multiple of the patch size {patch}")
    x = x_BCHW.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens_BLD: Tensor, patch: int) -> Tensor:
    """Undo `patchify` for a square picture."""
    batch, tokens, width = tokens_BLD.shape
    side = round(tokens**0.5)
    x = tokens_BLD.reshape(batch, side, side, width // patch**2, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, side * patch, side * patch)


class PatchCodec(nn.Module):
    """Principal components of square patches: linear, exact to invert, fitted in closed form.

    Each patch of p x p x 3 values keeps its first C components, each divided by its eigenvalue to
    `whitening_power` (0.5 would be full whitening, which spends the loss on components that look like noise),
    and all by one number that makes the mean variance 1.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        width = 3 * config.patch_size**2
        if config.channels > width:
            raise ValueError(f"a patch has {width} values, fewer than channels {config.channels}")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.eye(config.channels, width))
        self.register_buffer("scale", torch.ones(config.channels))

    @torch.no_grad()
    def fit(self, images_NHWC: Images) -> None:
        """Fit mean, basis and scale to uint8 images; signs are fixed so that the result is unique."""
        patches = patchify(images_to_tensor(images_NHWC), self.config.patch_size).flatten(0, 1).double()
        mean = patches.mean(dim=0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        values = values.flip(0)[: self.config.channels].clamp(min=1e-12)
        basis = vectors.flip(1).T[: self.config.channels]
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        scale = values**self.config.whitening_power
        scale = scale * (values / scale**2).mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis * largest.sign())
        self.scale.copy_(scale)

    def encode(self, images_NHWC: Images) -> Tensor:
        """Return (B, (H/p) x (W/p), C) latents."""
        patches = patchify(images_to_tensor(images_NHWC, self.mean.device), self.config.patch_size)
        return (patches - self.mean) @ self.basis.T / self.scale

    def decode_differentiable(self, latents_NLC: Tensor) -> Tensor:
        """Return (B, 3, H, W), nominally 0..1, with gradients."""
        return unpatchify((latents_NLC * self.scale) @ self.basis + self.mean, self.config.patch_size)

    def decode(self, latents_NLC: Tensor) -> Images:
        """Return uint8 (B, H, W, 3) images."""
        return tensor_to_images(self.decode_differentiable(latents_NLC))
