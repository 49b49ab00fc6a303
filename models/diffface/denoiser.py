"""DiffFace's denoiser: the ADM U-Net, with the face's identity added to its time embedding.

    embedding = time_embed(step) + id_embed(identity)

Every residual block turns that embedding into a scale and a shift per channel, which is the only way
identity enters. Keys are those of the published checkpoints. Sources: ADM (arXiv 2105.05233), DiffFace
(arXiv 2212.13344, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.diffface.config import DenoiserConfig
from models.diffface.denoiser_blocks import (
    GroupNorm,
    Resample,
    ResidualBlock,
    SelfAttention,
    Stage,
    timestep_embedding,
    zeroed,
)


@dataclass(frozen=True)
class StagePlan:
    """One entry of `input_blocks` or `output_blocks`.

    `keep` is a residual block, then attention if it `attends`. `down` is one residual block that halves the
    side; `up` is what `keep` is, then one more residual block that doubles the side.
    """

    in_channels: int
    out_channels: int
    attends: bool
    resample: Resample


def plan_stages(config: DenoiserConfig) -> tuple[list[StagePlan], list[StagePlan]]:
    """The encoder's stages after the first convolution, and the decoder's.

    Every stage of the encoder, and that convolution, hands its result to one stage of the decoder, last
    first; the decoder's `in_channels` count those channels.
    """
    widths = [multiple * config.model_channels for multiple in config.channel_mult]
    attends = [side in config.attention_resolutions for side in config.sides]
    last_level = len(widths) - 1
    encoder: list[StagePlan] = []
    decoder: list[StagePlan] = []

    width = widths[0]
    handed_over = [width]
    for level, level_width in enumerate(widths):
        for _ in range(config.num_res_blocks):
            encoder.append(StagePlan(width, level_width, attends[level], "keep"))
            width = level_width
            handed_over.append(width)
        if level < last_level:
            encoder.append(StagePlan(width, width, attends=False, resample="down"))
            handed_over.append(width)

    for level in range(last_level, -1, -1):
        for block in range(config.num_res_blocks + 1):
            ends_level = level > 0 and block == config.num_res_blocks
            arriving = width + handed_over.pop()
            decoder.append(StagePlan(arriving, widths[level], attends[level], "up" if ends_level else "keep"))
            width = widths[level]
    return encoder, decoder


class Denoiser(nn.Module):
    """Predicts the noise of a face image, and how far to trust it, given the step and an identity."""

    def __init__(self, config: DenoiserConfig) -> None:
        """Build it with random weights, its output and every residual branch starting at zero."""
        super().__init__()
        self.config = config
        embedding_dim = config.embedding_dim
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
        )
        self.id_embed = nn.Sequential(
            nn.Linear(config.identity_dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        encoder, decoder = plan_stages(config)
        first = encoder[0].in_channels
        middle = encoder[-1].out_channels
        last = decoder[-1].out_channels
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(3, first, 3, padding=1)])])
        self.input_blocks.extend(Stage(self._blocks(plan)) for plan in encoder)
        self.middle_block = Stage(
            [self._residual(middle, middle), self._attention(middle), self._residual(middle, middle)]
        )
        self.output_blocks = nn.ModuleList(Stage(self._blocks(plan)) for plan in decoder)
        self.out = nn.Sequential(
            GroupNorm(config.norm_groups, last),
            nn.SiLU(),
            zeroed(nn.Conv2d(last, config.out_channels, 3, padding=1)),
        )
        self.cast_torso(getattr(torch, config.torso_dtype))

    def _residual(self, in_channels: int, out_channels: int, resample: Resample = "keep") -> ResidualBlock:
        return ResidualBlock(
            in_channels,
            out_channels,
            self.config.embedding_dim,
            self.config.norm_groups,
            dropout=self.config.dropout,
            resample=resample,
        )

    def _attention(self, channels: int) -> SelfAttention:
        return SelfAttention(channels, self.config.num_head_channels, self.config.norm_groups)

    def _blocks(self, plan: StagePlan) -> Iterator[nn.Module]:
        yield self._residual(
            plan.in_channels, plan.out_channels, "down" if plan.resample == "down" else "keep"
        )
        if plan.attends:
            yield self._attention(plan.out_channels)
        if plan.resample == "up":
            yield self._residual(plan.out_channels, plan.out_channels, "up")

    def cast_torso(self, dtype: torch.dtype) -> None:
        """Hold the convolutions of the input, middle and output blocks in `dtype`.

        Linear layers, normalisations and the output convolution keep theirs: the embeddings and the last
        step are where half precision would show. It works on any device; nothing here asks for CUDA.
        """
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)

    def embed(self, timestep_B: Tensor, identity_BD: Tensor) -> Tensor:
        """The (B, E) embedding of step and identity that every residual block sees."""
        dtype = next(self.time_embed.parameters()).dtype
        waves_BC = timestep_embedding(timestep_B, self.config.model_channels).to(dtype)
        return self.time_embed(waves_BC) + self.id_embed(identity_BD.to(dtype))

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, identity_BD: Tensor) -> Tensor:
        """Epsilon and, with a learned variance, its raw interpolation.

        Args:
            x_BCHW: noised images, (B, 3, S, S), clean pixels being -1..1.
            timestep_B: steps of the ORIGINAL schedule (0..999), also when fewer steps are sampled.
            identity_BD: L2-normalised face embeddings.

        Returns:
            (B, 6, S, S) in float32: channels 0..2 are epsilon, 3..5 the variance's place between its two
            bounds (-1 the posterior's, 1 beta). Three channels without a learned variance.

        Raises:
            ValueError: if a shape is not the configuration's.
        """
        side = self.config.image_size
        if x_BCHW.shape[1:] != (3, side, side):
            raise ValueError(f"the denoiser takes (B, 3, {side}, {side}) images, got {tuple(x_BCHW.shape)}")
        batch = len(x_BCHW)
        if timestep_B.shape != (batch,) or identity_BD.shape != (batch, self.config.identity_dim):
            raise ValueError(
                f"{batch} images need {batch} timesteps and ({batch}, {self.config.identity_dim}) "
                f"identities, got {tuple(timestep_B.shape)} and {tuple(identity_BD.shape)}"
            )
        embedding_BE = self.embed(timestep_B, identity_BD)
        hidden = x_BCHW.to(next(self.input_blocks.parameters()).dtype)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            hidden = stage(hidden, embedding_BE)
            skips.append(hidden)
        hidden = self.middle_block(hidden, embedding_BE)
        for stage in self.output_blocks:
            hidden = stage(torch.cat([hidden, skips.pop()], dim=1), embedding_BE)
        output = self.out(hidden.to(next(self.out.parameters()).dtype))
        return output.to(torch.promote_types(output.dtype, torch.float32))
