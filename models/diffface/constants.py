"""Published numbers of DiffFace and of the parts it is made of, in one place.

Sources: DiffFace, arXiv 2212.13344 (Pattern Recognition 163:111451); ADM, "Diffusion Models Beat GANs on
Image Synthesis", arXiv 2105.05233 (256 px, unconditional); improved DDPM, arXiv 2102.09672 (learned variance,
respacing); DDIM, arXiv 2010.02502.
"""

from __future__ import annotations

# The diffusion process (ADM, section 4; improved DDPM, section 3.1).
DIFFUSION_STEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02

# The denoiser at 256 px (ADM, appendix I, "ImageNet 256 unconditional").
IMAGE_SIZE = 256
MODEL_CHANNELS = 256
CHANNEL_MULT = (1, 1, 2, 2, 4, 4)
NUM_RES_BLOCKS = 2
ATTENTION_RESOLUTIONS = (32, 16, 8)
NUM_HEAD_CHANNELS = 64
NORM_GROUPS = 32
NORM_EPSILON = 1e-5
EMBEDDING_MULTIPLE = 4
"""Width of the time embedding over `model_channels`."""
TIMESTEP_MAX_PERIOD = 10_000.0
"""Longest wave of the sinusoidal step embedding, in steps over 2 pi."""

# Identity conditioning (DiffFace, section 3.2): an ArcFace vector through a two-layer MLP.
IDENTITY_DIM = 512

# Sizes that follow from the above and that a checkpoint is held to.
ADM_PARAMETERS = 552_814_086
"""Of the same network without identity: the published unconditional ADM checkpoint at 256 px."""
DENOISER_PARAMETERS = 554_388_998
"""With the four tensors of `id_embed`."""
ATTENTION_BLOCKS = 16

# Sampling (DiffFace, section 4; the released program's defaults).
RESPACING = "100"
SKIP_TIMESTEPS = 25
