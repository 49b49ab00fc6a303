"""`latents`: photo and condition image as the swap model's latents, cached for training and swapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.condition import (
    CONDITION_INPUTS,
    OWN_CONDITION,
    TARGET_COLUMN,
    ConditionNames,
    ConditionStageConfig,
    row_frame,
)
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from assets.swap_base import CodecSource, open_codec
from models.faces.frame import frame_condition
from resources.lake.schema import Column

if TYPE_CHECKING:  # torch loads when a codec does
    from models.swap.codec import LatentCodec

BATCH_SIZE = 32
"""Rows at a time with the small base; a profile of a larger one says its own. No fingerprint holds it."""


class LatentsConfig(StageConfig):
    """Which frame is encoded and whose codec does it."""

    condition: ConditionStageConfig = Field(description="The frame and its condition image.")
    codec: CodecSource = Field(description="The codec of the base that is trained on these latents.")

    @property
    def latent_size(self) -> int:
        """Numbers in one latent: tokens x channels."""
        shape = self.codec.codec
        return (self.condition.size // shape.patch_size) ** 2 * shape.channels


def latents_stage(
    config: LatentsConfig, names: ConditionNames = OWN_CONDITION, batch_size: int = BATCH_SIZE
) -> RowStage:
    """The stage `latents`. Masks and points are read, but the condition's digest already covers them.

    For another condition image than the profile's own it has that image's latents alone.
    """
    latent = pa.list_(pa.float16(), config.latent_size)
    covered = tuple(
        Input(item.stage, item.columns, tracked=item.stage == "faces") for item in CONDITION_INPUTS
    )

    def load(context: StageContext) -> LatentModel:
        return LatentModel(config, context, names)

    return RowStage(
        name=names.latents,
        code_version="1",
        description="Latents of the photo and of its condition image (float16), rows of tokens first.",
        config=config,
        inputs=(*covered, Input(names.condition, (names.sha256,))),
        weights=(config.codec.weights,),
        outputs=(
            *((Column(TARGET_COLUMN, latent, quantum=1 / 64),) if names == OWN_CONDITION else ()),
            Column(names.column, latent, quantum=1 / 64),
        ),
        load=load,
        batch_size=batch_size,
    )


class LatentModel:
    """The codec of the base model, loaded once."""

    def __init__(self, config: LatentsConfig, context: StageContext, names: ConditionNames) -> None:
        self.config, self.names = config, names
        self.codec = open_codec(context, config.codec)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per row, in order."""
        frames = [row_frame(row, self.config.condition.size) for row in rows]
        conditions = [frame_condition(frame, self.config.condition.image) for frame in frames]
        columns = {self.names.column: encode_pictures(self.codec, conditions)}
        if self.names == OWN_CONDITION:
            columns[TARGET_COLUMN] = encode_pictures(self.codec, [frame.image for frame in frames])
        return [{name: values[place] for name, values in columns.items()} for place in range(len(rows))]


def encode_pictures(codec: LatentCodec, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Latents (B, L, C) float16, as the lake keeps them, of square pictures (S, S, 3) uint8."""
    return codec.encode(np.stack(pictures)).cpu().numpy().astype(np.float16)
