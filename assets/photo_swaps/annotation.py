"""Photographs outside the lake through the profile's own annotation stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

from assets.annotating import annotate_pictures
from assets.identity_pulid import PulidConfig, swap_source_stage
from assets.photo_swaps.faces import FaceFinder
from assets.runner import load_model
from assets.stage import Row, RowModel, RowStage, StageGraph
from resources.compute.device import choose_device
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.photos.reasons import RowError
from resources.weights.resolve import resolve

IDENTITY, CONDITION = "identity_embedding", "condition"
"""What is read of a source, and of a target whose condition image is drawn or whose face is cut out."""

MASKS = "masks"
"""What a warp reads of both, with the points before it."""

EMBEDDER_ROLE = "dlib_face_recognition"


class Annotator:
    """The annotation stages of a graph, each model loaded once per process and called in batches.

    Args:
        lake: tells the stages where they are; nothing is read from it or written to it.
        graph: the profile's stages.
        masked_source: embed identities as in training, where the profile makes a difference.
        device: as of `choose_device`.
        report: receives sentences for people.

    Raises:
        LakeError: `masked_source` in a profile whose embedder knows no masks.
    """

    def __init__(
        self,
        lake: Lake,
        graph: StageGraph,
        *,
        masked_source: bool,
        device: str,
        report: Callable[[str], None],
    ) -> None:
        identity = graph[IDENTITY]
        if masked_source and not isinstance(identity.config, PulidConfig):
            raise LakeError("this profile's embedder sees the aligned face alone: no source is masked")
        self._lake, self._device, self._report = lake, device, report
        self.graph = StageGraph(
            tuple(
                swap_source_stage(stage, masked=masked_source)
                if isinstance(stage, RowStage) and stage.name == IDENTITY
                else stage
                for stage in graph.needed_for([IDENTITY, CONDITION]).stages
            )
        )

    def annotate(self, rows: Sequence[Row], stages: Collection[str]) -> list[dict[str, Any] | RowError]:
        """Columns of `stages` and all before them, arrays flat as in the lake, or why a row has none.

        A row holds `image`, and `FACE_AT` where the face has been chosen.
        """
        return annotate_pictures(rows, self.graph.needed_for(stages), self._model)

    def finder(self) -> FaceFinder:
        """The detector and mesh of the stage `landmarks`."""
        stage = self.graph["landmarks"]
        assert isinstance(stage, RowStage)

        @functools.cache
        def embedder():
            from models.identity.embedding import IdentityEmbedder

            return IdentityEmbedder(resolve(EMBEDDER_ROLE).path, choose_device(self._device).device)

        return FaceFinder(self._model(stage), embedder)

    def _model(self, stage: RowStage) -> RowModel:
        return load_model(self._lake, self.graph, stage, self._device, self._report)
