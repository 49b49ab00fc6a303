"""`identity_embedding` of the commercially clean profile: SFace's 128 numbers."""

from __future__ import annotations

from assets.identity_embedding import Embedder, embedding_stage
from assets.stage import RowStage, StageContext


def identity_sface_stage() -> RowStage:
    """The stage `identity_embedding` by SFace, aligned by the 68 landmarks."""
    return embedding_stage(
        role="sface",
        code_version="sface-1",
        description="128-d face embedding of SFace (OpenCV) of the aligned face, of length 1.",
        open_embedder=_open,
    )


def _open(context: StageContext) -> Embedder:
    from models.identity.sface import SFaceEmbedder

    if context.device != "cpu":
        context.report(
            f"identity_embedding: SFace runs on the CPU, not on {context.device}: OpenCV's packages "
            "have no GPU engine"
        )
    return SFaceEmbedder(context.weight("sface"))
