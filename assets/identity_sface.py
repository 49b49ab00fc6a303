"""`identity_embedding` of the commercially clean profile: SFace's 128 numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from resources.lake.schema import Column

EMBEDDING_SIZE = 128
BATCH_SIZE = 32
"""OpenCV runs the network chip by chip; a batch only bounds how many photographs are decoded at once."""


def identity_sface_stage() -> RowStage:
    """The stage `identity_embedding` by SFace, aligned by the 68 landmarks."""
    return RowStage(
        name="identity_embedding",
        code_version="sface-1",
        description="128-d face embedding of SFace (OpenCV) of the aligned face, of length 1.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)), Input("landmarks", ("landmarks_68",))),
        weights=("sface",),
        outputs=(
            Column("identity_embedding", pa.list_(pa.float32(), EMBEDDING_SIZE), quantum=1e-3),
            Column("identity_embedder", pa.string()),
        ),
        load=SFaceModel,
        batch_size=BATCH_SIZE,
    )


class SFaceModel:
    """The embedder, loaded once."""

    def __init__(self, context: StageContext) -> None:
        from models.identity.sface import SFaceEmbedder

        if context.device != "cpu":
            context.report(
                f"identity_embedding: SFace runs on the CPU, not on {context.device}: OpenCV's packages "
                "have no GPU engine"
            )
        self.embedder = SFaceEmbedder(context.weight("sface"))

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        from models.identity.arcface_alignment import arcface_points_from_68

        points = [arcface_points_from_68(row["landmarks_68"].reshape(68, 2)) for row in rows]
        embeddings_ND = self.embedder.embed([row["image"] for row in rows], points)
        return [
            {"identity_embedding": embedding_D, "identity_embedder": self.embedder.name}
            for embedding_D in embeddings_ND
        ]
