"""`identity_embedding`: who is shown, as a vector; the profile's embedder says which."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from models.identity.embedding import EMBEDDING_SIZE, IdentityEmbedder, five_points_from_68
from resources.lake.schema import Column


def identity_embedding_stage() -> RowStage:
    """The stage `identity_embedding` of the CPU profiles: dlib's ResNet in torch, 128 numbers."""
    return RowStage(
        name="identity_embedding",
        code_version="1",
        description="128-d face embedding (dlib ResNet in torch) of the aligned face.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)), Input("landmarks", ("landmarks_68",))),
        weights=("dlib_face_recognition",),
        outputs=(
            Column("identity_embedding", pa.list_(pa.float32(), EMBEDDING_SIZE), quantum=1e-3),
            Column("identity_embedder", pa.string()),
        ),
        load=EmbeddingModel,
        batch_size=32,
    )


class EmbeddingModel:
    """The embedder, loaded once."""

    def __init__(self, context: StageContext) -> None:
        self.embedder = IdentityEmbedder(context.weight("dlib_face_recognition"), context.device)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        points = [five_points_from_68(row["landmarks_68"].reshape(68, 2)) for row in rows]
        embeddings = self.embedder.embed([row["image"] for row in rows], points)
        return [
            {"identity_embedding": embedding, "identity_embedder": self.embedder.name}
            for embedding in embeddings
        ]
