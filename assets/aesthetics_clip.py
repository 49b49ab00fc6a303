"""`aesthetics` of the paper's profile: CLIP ViT-L/14 with the published head, under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from assets.numerics import prepared
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.aesthetics.clip_aesthetics import SCORER_NAME
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.faces.overlays import draw_caption
from models.numerics_config import Numerics
from resources.lake.schema import Column

TOWER_FILE = "model.safetensors"
"""Name of the weights in the folder of the role `clip_vit_l14`."""

BATCH_SIZE = 16
"""As many pictures as the scorer passes through the tower at once."""


class ClipAestheticsStageConfig(StageConfig):
    """Which head is read, and the sizes of tower and head."""

    head: Literal["aesthetic_head", "aesthetic_head_ava"] = Field(
        default="aesthetic_head",
        description="Weight role of the head. The first is the one inside the single file that APPLE reads.",
    )
    network: ClipAestheticsConfig = Field(
        default=ClipAestheticsConfig(), description="Sizes of tower and head."
    )


def aesthetics_clip_stage(config: ClipAestheticsStageConfig, numerics: Numerics = Numerics()) -> RowStage:
    """The stage `aesthetics` by CLIP."""

    def load(context: StageContext) -> ClipScores:
        return ClipScores(config, context, numerics)

    return RowStage(
        name="aesthetics",
        code_version="clip-1",
        description=f"Aesthetic score `{SCORER_NAME}`, about 1 to 10.",
        config=config,
        inputs=(Input("faces", ("image",)),),
        weights=("clip_vit_l14", config.head),
        outputs=(
            Column("aesthetic_score", pa.float32(), quantum=0.01),
            Column("aesthetic_scorer", pa.string()),
        ),
        load=load,
        batch_size=BATCH_SIZE,
        numerics=numerics,
        preview=lambda row: draw_caption(row["image"], f"{row['aesthetic_score']:.2f}"),
    )


class ClipScores:
    """Tower and head, loaded once."""

    def __init__(self, config: ClipAestheticsStageConfig, context: StageContext, numerics: Numerics) -> None:
        from models.aesthetics.clip_aesthetics import AestheticScorer

        tower = Path(context.weight("clip_vit_l14"), TOWER_FILE)
        self.scorer = AestheticScorer(tower, context.weight(config.head), context.device, config.network)
        prepared(self.scorer.network, context, numerics, name="aesthetics, CLIP", method="embed")

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        scores_N = self.scorer.score([row["image"] for row in rows])
        return [{"aesthetic_score": float(score), "aesthetic_scorer": self.scorer.name} for score in scores_N]
