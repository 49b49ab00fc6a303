"""FLUX's autoencoder as a codec. The patch codec lies elsewhere: it needs no diffusers, slow to load."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from models.swap.codec import Images, images_to_tensor, patchify, tensor_to_images, unpatchify


class AutoencoderKLCodec(nn.Module):
    """FLUX's autoencoder with its 2 x 2 packing: (z - shift) x scaling, then tokens of 4 x channels.

    `seed` None takes the posterior's mode; a number draws from it reproducibly, each image with a generator
    seeded `seed` + its row.
    """

    def __init__(self, vae: AutoencoderKL, *, seed: int | None = None) -> None:
        super().__init__()
        self.vae = vae
        self.seed = seed
        self.scaling = float(vae.config["scaling_factor"])
        self.shift = float(vae.config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, images_NHWC: Images) -> Tensor:
        """Return (B, (H/16) x (W/16), 64) latents for FLUX's autoencoder."""
        images = images_to_tensor(images_NHWC, self.vae.device).to(self.vae.dtype) * 2.0 - 1.0
        posterior = self.vae.encode(images, return_dict=False)[0]
        latents = cast(Tensor, posterior.mode())
        if self.seed is not None:
            noise = [
                torch.randn(latents.shape[1:], generator=torch.Generator("cpu").manual_seed(self.seed + row))
                for row in range(len(latents))
            ]
            latents = latents + posterior.std * torch.stack(noise).to(latents)
        return patchify((latents.float() - self.shift) * self.scaling, 2)

    def decode_differentiable(self, latents_NLC: Tensor) -> Tensor:
        """Return (B, 3, H, W), nominally 0..1, with gradients."""
        latents = unpatchify(latents_NLC, 2) / self.scaling + self.shift
        decoded = cast(
            Tensor, self.vae.decode(cast(torch.FloatTensor, latents.to(self.vae.dtype)), return_dict=False)[0]
        )
        return decoded.float() / 2.0 + 0.5

    @torch.no_grad()
    def decode(self, latents_NLC: Tensor) -> Images:
        """Return uint8 (B, H, W, 3) images."""
        return tensor_to_images(self.decode_differentiable(latents_NLC))
