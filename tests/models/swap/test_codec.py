from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from models.swap.codec import PatchCodec, patchify, unpatchify
from models.swap.codec_autoencoder import AutoencoderKLCodec
from models.swap.config import CodecConfig


def _smooth_images(count: int, seed: int) -> np.ndarray:
    """Random gradients and stripes: pictures with structure that a few components catch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32] / 32
    waves = rng.normal(size=(count, 4, 3)) * 60 / np.arange(1, 5)[None, :, None]
    directions = rng.normal(size=(count, 4, 2)) * np.arange(1, 5)[None, :, None]
    phases = directions[..., 0, None, None] * x + directions[..., 1, None, None] * y
    images = 128 + np.einsum("nkyx,nkc->nyxc", np.sin(phases * 2), waves)
    return images.clip(0, 255).round().astype(np.uint8)


def test_patchify_order_is_flux_packing_and_inverts():
    x = torch.arange(2 * 4 * 8 * 8, dtype=torch.float32).reshape(2, 4, 8, 8)
    packed = FluxPipeline._pack_latents(x, 2, 4, 8, 8)
    assert torch.equal(patchify(x, 2), packed)
    assert torch.equal(unpatchify(packed, 2), x)
    with pytest.raises(ValueError, match="no multiple"):
        patchify(x, 3)


def test_patch_codec_is_principal_components():
    config = CodecConfig(kind="patch", patch_size=8, channels=24)
    codec = PatchCodec(config)
    images = _smooth_images(300, 0)
    codec.fit(images)
    latents = codec.encode(images)
    assert latents.shape == (300, 16, 24)
    assert latents.dtype == torch.float32
    assert float(latents.var(dim=(0, 1)).mean()) == pytest.approx(1.0, abs=0.02)
    # An independent reference: the best rank-24 reconstruction of all patches, by SVD.
    patches = images.reshape(300, 4, 8, 4, 8, 3).transpose(0, 1, 3, 5, 2, 4).reshape(4800, 192) / 255.0
    mean = patches.mean(0)
    _, _, rows = np.linalg.svd(patches - mean, full_matrices=False)
    best = (patches - mean) @ rows[:24].T @ rows[:24] + mean
    decoded = codec.decode_differentiable(latents)
    ours = decoded.reshape(300, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).reshape(4800, 192).numpy()
    np.testing.assert_allclose(ours, best, atol=2e-4)


def test_whitening_power_interpolates_between_none_and_full():
    spreads = {}
    for power in (0.0, 0.2, 0.5):
        codec = PatchCodec(CodecConfig(kind="patch", patch_size=8, channels=24, whitening_power=power))
        codec.fit(_smooth_images(300, 0))
        deviation = codec.encode(_smooth_images(300, 0)).flatten(0, 1).std(dim=0)
        spreads[power] = float(deviation[0] / deviation[-1])
    assert spreads[0.5] == pytest.approx(1.0, abs=0.05)
    assert spreads[0.2] == pytest.approx(spreads[0.0] ** 0.6, rel=0.05)


def test_decode_of_encode_on_held_out_pictures_and_gradients():
    codec = PatchCodec(CodecConfig(kind="patch", patch_size=8, channels=96))
    codec.fit(_smooth_images(300, 0))
    images = _smooth_images(20, 1)
    error = codec.decode(codec.encode(images)).astype(float) - images
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 35
    latents = codec.encode(images).requires_grad_(True)
    codec.decode_differentiable(latents)[:, 0].sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
    with pytest.raises(TypeError, match="uint8"):
        codec.encode(images.astype(np.float32))  # pyright: ignore[reportArgumentType] - the wrong type is the test


@torch.no_grad()
def test_autoencoder_codec_packs_scales_and_seeds(flux_files):
    torch.manual_seed(0)
    vae = flux_files.small_vae()
    images = _smooth_images(3, 2)
    codec = AutoencoderKLCodec(vae)
    latents = codec.encode(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    mode = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents, FluxPipeline._pack_latents((mode - 0.1) * 0.36, 3, 4, 16, 16))
    expected = (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1) * 255
    decoded = codec.decode(latents)
    assert np.abs(decoded.astype(float) - expected.permute(0, 2, 3, 1).numpy()).max() <= 0.51
    drawn = AutoencoderKLCodec(vae, seed=7)
    assert torch.equal(drawn.encode(images), drawn.encode(images))
    torch.testing.assert_close(drawn.encode(images)[:1], drawn.encode(images[:1]), rtol=1e-4, atol=1e-5)
    assert not torch.equal(drawn.encode(images), latents)
