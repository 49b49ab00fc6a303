"""`aesthetics`: one score per photo and the name of the scorer; a filter at read time, never a deletion."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from models.aesthetics.face_quality import SCORER_NAME, face_quality
from models.faces.overlays import draw_caption
from resources.lake.schema import Column


def aesthetics_stage() -> RowStage:
    """The stage `aesthetics` of the CPU profiles: a no-reference quality score under its own name."""

    def load(context: StageContext):
        def score(rows: Sequence[Row]) -> list[RowOutcome]:
            return [_score(row) for row in rows]

        return score

    return RowStage(
        name="aesthetics",
        code_version="1",
        description=f"No-reference quality score `{SCORER_NAME}`, 0 (unusable) to 10.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)), Input("landmarks", ("mesh_478", "pose"))),
        outputs=(
            Column("aesthetic_score", pa.float32(), quantum=0.01),
            Column("aesthetic_scorer", pa.string()),
        ),
        load=load,
        preview=lambda row: draw_caption(row["image"], f"{row['aesthetic_score']:.2f}"),
    )


def _score(row: Row) -> RowOutcome:
    quality = face_quality(row["image"], row["mesh_478"].reshape(478, 3), tuple(row["pose"].tolist()))
    return {"aesthetic_score": quality.score, "aesthetic_scorer": SCORER_NAME}
