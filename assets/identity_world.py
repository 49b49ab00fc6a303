"""`identity_embedding` of the CPU profiles: 128 numbers of our own embedder, which knows rendered faces.

It was trained on the procedural world, as the base of those profiles was, and on nobody else: of photographs
of real people it makes numbers as well, but they do not tell these people apart.
"""

from __future__ import annotations

from assets.identity_embedding import Embedder, embedding_stage
from assets.stage import RowStage, StageContext


def identity_world_stage() -> RowStage:
    """The stage `identity_embedding` by the world's embedder, aligned by the 68 landmarks."""
    return embedding_stage(
        role="world_embedder",
        code_version="world-1",
        description="128-d embedding of the aligned face by the rendered world's own embedder, of length 1. "
        "It knows rendered faces of that world alone and does not tell real people apart.",
        open_embedder=_open,
    )


def _open(context: StageContext) -> Embedder:
    from models.identity.world_embedder import WorldEmbedder

    return WorldEmbedder(context.weight("world_embedder"), context.device)
