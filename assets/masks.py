"""`masks`: face parsing in 19 classes and the visible-face mask, stored as compressed codes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from models.faces.overlays import draw_parsing
from models.faces.parsing import (
    PersonSegmenter,
    decode_codes,
    encode_codes,
    pack_mask,
    parsing_from_mesh,
    visible_face_mask,
)
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError


def masks_stage() -> RowStage:
    """The stage `masks`: mesh polygons cut by the person mask. It claims no hair, hat or occluder."""
    return RowStage(
        name="masks",
        code_version="2",
        description="19-class parsing from mesh polygons and the visible-face mask, as compressed codes.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)), Input("landmarks", ("mesh_478",))),
        weights=("selfie_segmenter",),
        outputs=(Column("parsing", pa.binary()), Column("visible_face", pa.binary())),
        load=MaskModel,
        preview=lambda row: draw_parsing(row["image"], decode_codes(row["parsing"], row["image"].shape[:2])),
    )


class MaskModel:
    """The person segmenter, loaded once."""

    def __init__(self, context: StageContext) -> None:
        self.segmenter = PersonSegmenter(context.weight("selfie_segmenter"))

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        return [self._parse(row) for row in rows]

    def _parse(self, row: Row) -> RowOutcome:
        image = row["image"]
        mesh = row["mesh_478"].reshape(478, 3)
        person = self.segmenter.segment_with_face(image, mesh)
        parsing = parsing_from_mesh(mesh, person, image.shape[:2])
        visible = visible_face_mask(parsing, person)
        if not visible.any():
            return RowError(Reason.NO_FACE, "no pixel of the face is visible in the person mask")
        return {"parsing": encode_codes(parsing), "visible_face": pack_mask(visible)}
