"""`identity_embedding`: who is shown, as 128 numbers of one of the embedders that take ArcFace's five points.

The stage and its columns; which embedder it is stands in a file of its own. PuLID's tokens, of another shape,
have a stage of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageContext
from models.faces.images import Image, Points
from resources.lake.schema import Column

EMBEDDING_SIZE = 128
BATCH_SIZE = 32
"""Photographs decoded at once."""


class Embedder(Protocol):
    """What makes embeddings; `name` is recorded beside each."""

    name: str

    def embed(self, images: Sequence[Image], points: Sequence[Points], /) -> NDArray[np.float32]:
        """Embed one face (5, 2) of each image; (N, 128) float32 of length 1."""
        ...


def embedding_stage(
    *, role: str, code_version: str, description: str, open_embedder: Callable[[StageContext], Embedder]
) -> RowStage:
    """The stage `identity_embedding` by the embedder of a weight role, aligned by the 68 landmarks."""
    return RowStage(
        name="identity_embedding",
        code_version=code_version,
        description=description,
        config=NoConfig(),
        inputs=(Input("faces", ("image",)), Input("landmarks", ("landmarks_68",))),
        weights=(role,),
        outputs=(
            Column("identity_embedding", pa.list_(pa.float32(), EMBEDDING_SIZE), quantum=1e-3),
            Column("identity_embedder", pa.string()),
        ),
        load=lambda context: EmbeddingModel(open_embedder(context)),
        batch_size=BATCH_SIZE,
    )


class EmbeddingModel:
    """The embedder, loaded once."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        from models.identity.arcface_alignment import arcface_points_from_68

        points = [arcface_points_from_68(row["landmarks_68"].reshape(68, 2)) for row in rows]
        embeddings_ND = self.embedder.embed([row["image"] for row in rows], points)
        return [
            {"identity_embedding": embedding_D, "identity_embedder": self.embedder.name}
            for embedding_D in embeddings_ND
        ]
