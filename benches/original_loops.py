"""Training and generation in the shape of the published code, on Orchard's own tiny base.

The published loops encode the prompt and both pictures in every step, pad the prompt to 512 tokens, work on
one row at a time and decode every estimate with its gradient, though the losses on the picture count at
little noise alone. Each of these is a switch of `Shape`, so that a reader sees which of them takes the
time. Adapters that are multiplied by zero on text and image, and reads of flags back from the GPU, are not
imitated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from models.swap.base import SwapBase
from models.swap.config import TransformerConfig
from models.swap.losses import clean_estimate, flow_sample, logit_normal_timesteps
from models.swap.text import TextEmbedding

ORIGINAL_TEXT_TOKENS = 512
CLIP_TOKENS = 77
THRESHOLD = 0.35
"""Losses on the picture count where t is at most this (APPLE's teacher)."""

PICTURE_WEIGHT = 0.1


@dataclass(frozen=True)
class Shape:
    """How a loop works; see `ORIGINAL` and `ours`."""

    rows: int
    prompt_kept: bool
    text_tokens: int
    latents_kept: bool
    decode_gated: bool


ORIGINAL = Shape(
    rows=1,
    prompt_kept=False,
    text_tokens=ORIGINAL_TEXT_TOKENS,
    latents_kept=False,
    decode_gated=False,
)

CAUSES = {
    "prompt kept": "prompt_kept",
    "short prompt": "text_tokens",
    "latents kept": "latents_kept",
    "decoding behind the gate": "decode_gated",
    "rows together": "rows",
}
"""What ours does otherwise, in the order of the ladder, and the field of `Shape` that says so."""


def ours(rows: int, text_tokens: int) -> Shape:
    """The shape of our loops."""
    return Shape(rows, True, text_tokens, True, True)


def ladder(mine: Shape, causes: dict[str, str]) -> dict[str, Shape]:
    """The original's shape, changed to ours one cause after the other."""
    shapes, shape = {"original": ORIGINAL}, ORIGINAL
    for name, field in causes.items():
        shape = replace(shape, **{field: getattr(mine, field)})
        shapes[f"+ {name}"] = shape
    return shapes


def one_by_one(mine: Shape, causes: dict[str, str]) -> dict[str, Shape]:
    """Our shape with one cause of the original put back."""
    return {
        f"ours, not {name}": replace(mine, **{field: getattr(ORIGINAL, field)})
        for name, field in causes.items()
    }


SAME_PROMPT = "original with our prompt's length"


def told(
    found: Mapping[str, Mapping[str, float]], causes: Iterable[str], own: str, bar: float
) -> dict[str, Any]:
    """What each cause is worth, and the original's time over ours against the bar.

    Args:
        found: medians by way; the rungs of `ladder`, the shapes of `one_by_one`, `SAME_PROMPT`, and `own`.
        causes: in the order of the ladder.
        own: the real code, as it is called in `found`: "ours, ...".
        bar: least factor that passes.
    """
    seconds = {name: value["median"] for name, value in found.items()}
    names = list(causes)
    rungs = ["original", *(f"+ {name}" for name in names)]
    last = seconds[rungs[-1]]
    factor = round(seconds["original"] / seconds[own], 2)
    return {
        "each_cause": {
            name: {
                "down_the_ladder": round(seconds[above] / seconds[below], 3),
                "alone_missing_from_ours": round(seconds[f"ours, not {name}"] / last, 3),
            }
            for name, above, below in zip(names, rungs[:-1], rungs[1:], strict=True)
        },
        f"{own.removeprefix('ours, ').replace(' ', '_')}_over_the_last_rung": round(seconds[own] / last, 3),
        "bar": {"times_the_original": bar},
        "times_the_original": factor,
        "times_the_original_with_our_prompt_length": round(seconds[SAME_PROMPT] / seconds[own], 2),
        "passed": factor >= bar,
    }


class TextEncoders(nn.Module):
    """A T5 and a CLIP of random weights, small as the base is: 2 layers, of the base's own text widths."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, pooled = config.joint_attention_dim, config.pooled_projection_dim
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=1000,
                d_model=width,
                d_kv=8,
                d_ff=2 * width,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                use_cache=False,
            )
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=1000,
                hidden_size=pooled,
                intermediate_size=2 * pooled,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CLIP_TOKENS,
                bos_token_id=998,
                eos_token_id=999,
            )
        )
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, rows: int, tokens: int) -> TextEmbedding:
        """Encode a six-word prompt, padded to `tokens`, for each row."""
        words = torch.zeros(rows, tokens, dtype=torch.long)
        words[:, : min(6, tokens)] = torch.arange(3, 3 + min(6, tokens))
        short = torch.full((rows, CLIP_TOKENS), 999, dtype=torch.long)
        short[:, :6] = torch.arange(3, 9)
        return TextEmbedding(self.t5(words).last_hidden_state, self.clip(short).pooler_output)


class FaceJudge(nn.Module):
    """A small random face network for the loss on the picture: pictures (B, 3, H, W) to (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(2)
        )
        self.head = nn.Linear(32, 16)
        self.requires_grad_(False)

    def forward(self, pictures_B3HW: Tensor, points_B52: Tensor | None = None) -> Tensor:
        """Embed; the crop is left out in both shapes."""
        return self.head(self.body(pictures_B3HW).mean(dim=2))


@dataclass(frozen=True)
class Photographs:
    """What a lake holds of N photographs of several people: pixels, latents, and embeddings."""

    pictures_NHWC: NDArray[np.uint8]
    conditions_NHWC: NDArray[np.uint8]
    targets_NLC: NDArray[np.float32]
    latent_conditions_NLC: NDArray[np.float32]
    identity_ND: NDArray[np.float32]
    reference_ND: NDArray[np.float32]
    people_N: NDArray[np.int64]


def photographs(base: SwapBase, judge: FaceJudge, count: int, seed: int = 0) -> Photographs:
    """Random pictures, four of each person; what they show costs nothing and decides nothing."""
    rng = np.random.default_rng(seed)
    size = base.config.image_size
    pictures = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    conditions = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    with torch.no_grad():
        references = judge(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    return Photographs(
        pictures,
        conditions,
        base.codec.encode(pictures).numpy(),
        base.codec.encode(conditions).numpy(),
        rng.standard_normal((count, base.config.identity.embedding_dim)).astype(np.float32),
        references.numpy(),
        np.arange(count) // 4,
    )


@dataclass
class Trainer:
    """A training step in any shape: gradients of `batch` rows, clipped, and AdamW."""

    base: SwapBase
    encoders: TextEncoders
    judge: FaceJudge
    photos: Photographs
    shape: Shape
    batch: int

    def __post_init__(self) -> None:
        """Keep the prompt where the shape keeps it, and make the optimiser."""
        self.base.model.requires_grad_(False)
        self.parameters = list(self.base.model.lora_parameters().values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-3)
        self.generator = torch.Generator().manual_seed(0)
        self.kept = self.encoders(1, self.shape.text_tokens)
        self.decoded = 0

    def step(self) -> float:
        """One optimiser step; returns the mean loss of its parts."""
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        parts = self.batch // self.shape.rows
        for _ in range(parts):
            loss = self._loss() / parts
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimiser.step()
        return total

    def _text(self, rows: int) -> TextEmbedding:
        if not self.shape.prompt_kept:
            return self.encoders(rows, self.shape.text_tokens)
        return TextEmbedding(self.kept.tokens_BTD.expand(rows, -1, -1), self.kept.pooled_BD.expand(rows, -1))

    def _loss(self) -> Tensor:
        rows, photos, codec = self.shape.rows, self.photos, self.base.codec
        wanted = torch.randint(len(photos.people_N), (rows,), generator=self.generator).numpy()
        if self.shape.latents_kept:
            targets = torch.from_numpy(photos.targets_NLC[wanted])
            conditions = torch.from_numpy(photos.latent_conditions_NLC[wanted])
        else:
            targets = codec.encode(photos.pictures_NHWC[wanted])
            conditions = codec.encode(photos.conditions_NHWC[wanted])
        timestep = logit_normal_timesteps(rows, self.generator)
        sample = flow_sample(targets, torch.randn(targets.shape, generator=self.generator), timestep)
        model = self.base.model
        identity = model.identity_encoder(torch.from_numpy(photos.identity_ND[wanted]))
        predicted = model(
            sample.noisy_BLC, timestep, self._text(rows), condition_BLC=conditions, identity_BTD=identity
        )
        loss = F.mse_loss(predicted, sample.velocity_BLC)
        counts = timestep <= THRESHOLD
        seen = torch.nonzero(counts).flatten() if self.shape.decode_gated else torch.arange(rows)
        if not len(seen):
            return loss
        clean = clean_estimate(sample.noisy_BLC, predicted, timestep)[seen]
        pictures = codec.decode_differentiable(clean).clamp(0, 1)
        self.decoded += len(seen)
        wanted_faces = torch.from_numpy(photos.reference_ND[wanted])[seen]
        distances = 1 - F.cosine_similarity(self.judge(pictures), wanted_faces)
        return loss + PICTURE_WEIGHT * (distances * counts[seen]).sum() / rows
