"""What pseudo triplets and swaps share: a batch of (source, target) rows through one swapper, marked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from assets.condition import OWN_CONDITION, TARGET_COLUMN, ConditionNames
from assets.previews import tile_row
from assets.stage import Input, Row
from models.swap.sampling_config import SamplingConfig
from resources.photos.decoding import decode_upright
from resources.photos.marking import Mark, mark_png

if TYPE_CHECKING:
    from torch import Tensor

    from models.swap.swapper import Swapper

SOURCE, TARGET = "source_image_id", "target_image_id"
IDENTITY = "identity_embedding"


@dataclass(frozen=True)
class PairReading:
    """What the swaps of a recipe read of their two photographs.

    `identity` names the stage, and its column, that gives the source's identity; `condition` the target's
    condition image. `target_identity` says whether an inversion sees the target's own identity.
    """

    condition: ConditionNames = OWN_CONDITION
    identity: str = IDENTITY
    target_identity: bool = False

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Inputs of a stage that swaps.

        Pixels are for the preview and consent for the mark: what the swap depends on is the source's
        identity and the target's latents.
        """
        names = self.condition
        own = names == OWN_CONDITION
        found = [
            Input("faces", ("image", "consent"), via=SOURCE, tracked=False),
            Input("faces", ("image", "consent"), via=TARGET, tracked=False),
            Input(self.identity, (self.identity,), via=SOURCE),
            Input("latents", (TARGET_COLUMN, *((names.column,) if own else ())), via=TARGET),
        ]
        if not own:
            found.append(Input(names.latents, (names.column,), via=TARGET))
        if self.target_identity:
            found.append(Input(self.identity, (self.identity,), via=TARGET))
        return tuple(found)


def pair_preview(row: Row, swapped: str) -> np.ndarray:
    """Source, target and the swap in the column `swapped`, side by side, RGB uint8."""
    return tile_row([row[f"{SOURCE}.image"], row[f"{TARGET}.image"], decode_upright(row[swapped])], 128)


def row_seed(pair_id: str) -> int:
    """Seed of a pair's noise, from its id alone, so that a batch and a single row give the same picture."""
    return int.from_bytes(hashlib.blake2b(pair_id.encode(), digest_size=6).digest(), "little")


def swap_rows(
    swapper: Swapper,
    rows: Sequence[Row],
    condition: str,
    sampling: SamplingConfig,
    identity: str = IDENTITY,
) -> tuple[np.ndarray, np.ndarray]:
    """Swap a batch; `condition` names the target's latent column that the condition branch sees.

    `identity` names the column of the source's identity. The target's own is read where the rows have it; the
    `trgID_*` inversions need it.
    Returns latents (B, L, C) float32 and pictures (B, S, S, 3) uint8.
    """
    import torch

    tokens = swapper.base.config.image_tokens

    def latents(name: str) -> torch.Tensor:
        stacked = np.stack([row[f"{TARGET}.{name}"] for row in rows]).astype(np.float32)
        return torch.from_numpy(stacked.reshape(len(rows), tokens, -1))

    source_BD = _embeddings(rows, SOURCE, identity)
    assert source_BD is not None  # every pair has a source's identity
    swapped = swapper.swap(
        source_BD,
        latents(condition),
        latents(TARGET_COLUMN),
        sampling,
        [row_seed(row["pair_id"]) for row in rows],
        target_embedding_BD=_embeddings(rows, TARGET, identity),
    )
    return swapped.numpy(), swapper.base.codec.decode(swapped.to(swapper.device))


def _embeddings(rows: Sequence[Row], side: str, column: str) -> Tensor | None:
    """Embeddings (B, D) float32 of one side's photographs; None where the rows have none."""
    import torch

    name = f"{side}.{column}"
    if name not in rows[0]:
        return None
    return torch.from_numpy(np.stack([row[name] for row in rows]).astype(np.float32))


def picture_mark(*, model_id: str, stage: str, source: str, target: str, consent: str) -> Mark:
    """What a made picture says about itself: that a model made it, which one, and from what."""
    return Mark(
        version=version("orchard-faces"),
        model_id=model_id,
        stage=stage,
        source_image_id=source,
        target_image_id=target,
        consent=consent,
    )


def marked_row(picture: np.ndarray, row: Row, model_id: str, stage: str) -> bytes:
    """A marked PNG of one pair row; both photographs' recorded consent is stated."""
    consent = f"source: {row[f'{SOURCE}.consent']}; target: {row[f'{TARGET}.consent']}"
    mark = picture_mark(
        model_id=model_id, stage=stage, source=row[SOURCE], target=row[TARGET], consent=consent
    )
    return mark_png(picture, mark)
