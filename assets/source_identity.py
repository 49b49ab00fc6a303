"""`source_identity`: identity tokens of unmasked photographs, which the paper's scripts swap with.

Training reads `identity_embedding`, of masked ones. Profiles whose embedder knows no such difference have no
such stage; their swaps read `identity_embedding` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from assets.identity_pulid import PulidConfig, identity_pulid_stage
from assets.stage import Row, RowModel, RowOutcome, RowStage, StageContext
from resources.lake.schema import Column
from resources.photos.reasons import RowError

SOURCE_IDENTITY = "source_identity"
"""Stage and column of unmasked sources' tokens, for swaps beside a training on masked ones."""


def source_identity_stage(config: PulidConfig) -> RowStage:
    """The stage `source_identity`: tokens of the unmasked photograph, which APPLE's scripts swap with."""
    stage = identity_pulid_stage(config.model_copy(update={"source": "unmasked"}))

    def load(context: StageContext) -> RowModel:
        return _TokensAlone(stage.load(context))

    tokens = Column(SOURCE_IDENTITY, stage.outputs[0].type, quantum=stage.outputs[0].quantum)
    return replace(
        stage,
        name=SOURCE_IDENTITY,
        description="PuLID's 32 identity tokens (float16) of the unmasked photograph, for swaps.",
        outputs=(tokens,),
        load=load,
    )


class _TokensAlone:
    """The model of `identity_embedding`, of whose results the tokens alone are kept."""

    def __init__(self, model: RowModel) -> None:
        self.model = model

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        return [
            outcome if isinstance(outcome, RowError) else {SOURCE_IDENTITY: outcome["identity_embedding"]}
            for outcome in self.model(rows)
        ]
