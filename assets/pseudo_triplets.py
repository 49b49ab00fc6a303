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

from assets.pair_condition import PAIR_CONDITION, PairCondition, PairConditionConfig
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from assets.swap_base import PROMPTS_STAGE, BaseConfig, open_swapper
from assets.swapping import PairReading, marked_row, pair_preview, swap_rows
from assets.training import checkpoint_folder
from assets.training_rows import need_artifact
from models.swap.sampling_config import SamplingConfig
from resources.lake.recipes import of_recipe
from resources.lake.schema import Column

BATCH_SIZE = 32
"""Rows at a time with the small base; a profile of a larger one says its own. No fingerprint holds it."""


class PseudoTripletsConfig(StageConfig):
    """How triplets are made."""

    base: BaseConfig = Field(description="Files and shape of the base.")
    sampling: SamplingConfig = Field(description="Steps, guidances and inversion.")
    pair_condition: PairConditionConfig | None = Field(
        default=None,
        description="For condition images that depend on the source too, else None.",
    )


def pseudo_triplets_stage(
    config: PseudoTripletsConfig,
    recipe: str | None = None,
    reading: PairReading = PairReading(),
    batch_size: int = BATCH_SIZE,
) -> RowStage:
    """The stage `pseudo_triplets` of a recipe, one row per ordered pair of people, sharded by pair."""
    teacher = of_recipe("teacher", recipe)
    latent = pa.list_(pa.float16(), config.base.model.image_tokens * config.base.model.codec.channels)

    def load(context: StageContext) -> TripletModel:
        return TripletModel(config, context, teacher, reading)

    return RowStage(
        name=of_recipe("pseudo_triplets", recipe),
        code_version="1",
        table=of_recipe("triplets", recipe),
        description="Teacher with attribute-aware inversion: one swapped picture per ordered pair.",
        config=config,
        inputs=(
            Input(PROMPTS_STAGE),
            Input(teacher),
            *reading.inputs,
            *(config.pair_condition.inputs if config.pair_condition else ()),
        ),
        weights=(*config.base.roles, *(config.pair_condition.weights if config.pair_condition else ())),
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

    def __init__(
        self, config: PseudoTripletsConfig, context: StageContext, teacher: str, reading: PairReading
    ) -> None:
        folder = checkpoint_folder(context.lake, need_artifact(context.lake, teacher))
        self.config, self.reading = config, reading
        shaped = config.pair_condition
        self.pair_condition = PairCondition(shaped, context) if shaped else None
        self.model_id = folder.name
        self.swapper = open_swapper(context, config.base, folder)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per pair, in order."""
        condition = self.reading.condition.column
        if self.pair_condition is not None:
            rows = self.pair_condition.added_to(rows, self.swapper.base.codec)
            condition = PAIR_CONDITION
        sampling, identity = self.config.sampling, self.reading.identity
        latents, pictures = swap_rows(self.swapper, rows, condition, sampling, identity)
        return [
            {
                "swapped": marked_row(picture, row, self.model_id, "pseudo_triplets"),
                "swapped_latents": latent.astype(np.float16),
            }
            for row, latent, picture in zip(rows, latents, pictures, strict=True)
        ]
