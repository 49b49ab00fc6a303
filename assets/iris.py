"""`iris`: five points of each iris, taken from the mesh's own iris points."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from models.faces.iris import iris_from_mesh
from models.faces.overlays import draw_iris
from resources.lake.schema import Column


def iris_stage() -> RowStage:
    """The stage `iris`: 10 points in pixels of the photo, five per eye."""

    def load(context: StageContext):
        def points(rows: Sequence[Row]) -> list[RowOutcome]:
            return [{"iris_10": iris_from_mesh(row["mesh_478"].reshape(478, 3))} for row in rows]

        return points

    return RowStage(
        name="iris",
        code_version="1",
        description="Ten iris points from the fitted mesh: centre and four rim points of each eye.",
        config=NoConfig(),
        inputs=(Input("landmarks", ("mesh_478",)),),
        outputs=(Column("iris_10", pa.list_(pa.float32(), 20), quantum=1 / 16),),
        load=load,
        batch_size=256,
        preview=lambda row: draw_iris(row["image"], row["iris_10"].reshape(10, 2)),
    )
