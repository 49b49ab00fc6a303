"""`pseudo_triplets`: the teacher swaps donor B onto photo A, starting from A's inverted noise.

Attribute-aware inversion (APPLE): the target is inverted with its condition image and without identity, so
that light, make-up and glasses come along; then it is sampled with the donor's identity. The triplet is
(another photo of A, this swap, photo A), and the student learns from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from assets.swap_base import PROMPTS_STAGE, BaseConfig, open_base
from assets.swapping import PAIR_INPUTS, marked_row, pair_preview, swap_rows
from assets.training import checkpoint_folder
from assets.training_rows import need_artifact
from models.swap.sampling_config import SamplingConfig
from resources.lake.schema import Column

BATCH_SIZE = 32
"""Rows at a time with the small base; a profile of a larger one says its own. No fingerprint holds it."""


class PseudoTripletsConfig(StageConfig):
    """How triplets are made."""

    base: BaseConfig = Field(description="Files and shape of the base.")
    sampling: SamplingConfig = Field(description="Steps, guidances and inversion.")


def pseudo_triplets_stage(config: PseudoTripletsConfig, batch_size: int = BATCH_SIZE) -> RowStage:
    """The stage `pseudo_triplets`, one row per ordered pair of people, sharded by pair."""
    latent = pa.list_(pa.float16(), config.base.model.image_tokens * config.base.model.codec.channels)

    def load(context: StageContext) -> TripletModel:
        return TripletModel(config, context)

    return RowStage(
        name="pseudo_triplets",
        code_version="1",
        table="triplets",
        description="Teacher with attribute-aware inversion: one swapped picture per ordered pair.",
        config=config,
        inputs=(
            Input(PROMPTS_STAGE),
            Input("teacher"),
            *PAIR_INPUTS,
        ),
        weights=config.base.roles,
        outputs=(
            Column("swapped", pa.binary(), picture=True),
            Column("swapped_latents", latent, quantum=1 / 64),
        ),
        load=load,
        batch_size=batch_size,
        preview=lambda row: pair_preview(row, "swapped"),
    )


class TripletModel:
    """The teacher, loaded once."""

    def __init__(self, config: PseudoTripletsConfig, context: StageContext) -> None:
        from models.swap.swapper import Swapper

        teacher = need_artifact(context.lake, "teacher")
        folder = checkpoint_folder(context.lake, teacher)
        self.config = config
        self.model_id = folder.name
        self.swapper = Swapper.on_base(open_base(context, config.base), folder, device=context.device)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per pair, in order."""
        latents, pictures = swap_rows(self.swapper, rows, "latent_condition", self.config.sampling)
        return [
            {
                "swapped": marked_row(picture, row, self.model_id, "pseudo_triplets"),
                "swapped_latents": latent.astype(np.float16),
            }
            for row, latent, picture in zip(rows, latents, pictures, strict=True)
        ]
