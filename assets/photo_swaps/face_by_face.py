"""Photographs and frames swapped one face after another, without checkpoint, base or lake.

What is done with a face is a subclass's: a classical warp, or DiffFace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from assets.landmarks import FACE_AT
from assets.photo_swaps.annotation import MASKS, Annotator
from assets.photo_swaps.faces import PhotoFace
from assets.photo_swaps.outputs import SwappedPhoto, TargetFace, side_by_side
from assets.photo_swaps.pairs import PhotoPair, about, read_side
from assets.photo_swaps.settings import SwapSettings
from models.faces.images import Image, Mask
from resources.photos.reasons import Reason, RowError

ANNOTATED_SIDE = 512
"""Side of the aligned crop in which a target's mask and points are found, px."""

Given = TypeVar("Given")
"""What a method takes of a source."""


class FaceByFaceSwapper(ABC, Generic[Given]):
    """Swaps photographs face by face; the profile's annotation finds and describes faces.

    Args:
        annotator: the profile's annotation.
        settings: which faces, and how crops are aligned.
        grid: whether grids are drawn.

    Raises:
        LakeError: the photograph of a wanted person cannot be used.
    """

    def __init__(self, annotator: Annotator, settings: SwapSettings, *, grid: bool = False) -> None:
        self.annotator, self.settings, self.grid = annotator, settings, grid
        self._finder = annotator.finder()
        self._wanted = self._finder.wanted(settings.faces, settings.source_face)

    @property
    @abstractmethod
    def model_id(self) -> str:
        """What marks and manifests call it."""

    @abstractmethod
    def _give(self, row: dict[str, Any]) -> Given:
        """What is taken of a source's annotated photograph. Raises RowError where nothing can be."""

    @abstractmethod
    def _put(
        self, picture: Image, changed: Mask, face: TargetFace, row: dict[str, Any], given: Given, name: str
    ) -> RowError | None:
        """Swap one face of a picture in place, and mark where; or say why not.

        `row` is the annotated crop of the face, `name` the pair's.
        """

    @property
    def decided(self) -> dict[str, Any]:
        """What decides results besides photographs and settings, for digests."""
        stages = self.annotator.graph.needed_for([MASKS]).stages
        return {"annotation": [stage.prefix.hex() for stage in stages], "model_id": self.model_id}

    def swap(self, pairs: Sequence[PhotoPair]) -> list[SwappedPhoto | RowError]:
        """One outcome per pair, in order."""
        outcomes: list[SwappedPhoto | RowError] = []
        for pair in pairs:
            try:
                outcomes.append(self._swap(pair))
            except RowError as error:
                outcomes.append(error)
        return outcomes

    def identity_of(self, source: Path) -> Given:
        """What is taken of a source's photograph. Raises RowError where it cannot be used."""
        image = read_side("source", source)
        with about("source"):
            return self._source(image)

    def faces_in(self, image: Image) -> list[PhotoFace]:
        """Every face of an upright picture. Raises RowError where there is none."""
        return self._finder.find(image, style=self.settings.crop, size=ANNOTATED_SIDE)

    def embed_faces(self, image: Image, faces: Sequence[PhotoFace]) -> np.ndarray:
        """Embeddings (N, 128) that tell people apart."""
        return self._finder.embed(image, faces)

    def chosen(self, image: Image, faces: Sequence[PhotoFace]) -> list[PhotoFace]:
        """Those that the settings mean. Raises RowError where there are none."""
        return self._finder.choose(image, faces, self.settings.faces, self._wanted)

    def swap_faces(
        self, pair: PhotoPair, given: Given, image: Image, faces: Sequence[PhotoFace]
    ) -> SwappedPhoto:
        """Swap these faces of a picture in memory; each is swapped, or says why not.

        Args:
            pair: names the noise, with each face's `index`.
            given: of the source, see `identity_of`.
            image: the upright picture.
            faces: some of `faces_in(image)`, under indices of the caller's.
        """
        wanted = [TargetFace(face, problem=self._finder.too_small(face)) for face in faces]
        picture, changed = image.copy(), np.zeros(image.shape[:2], np.bool_)
        for face in wanted:
            if face.problem is None:
                face.problem = self._swap_face(picture, changed, face, given, pair.name)
        return SwappedPhoto(picture, changed, wanted, None)

    def _swap(self, pair: PhotoPair) -> SwappedPhoto:
        if pair.problem is not None:
            raise pair.problem
        given = self.identity_of(pair.source)
        target = read_side("target", pair.target)
        with about("target"):
            made = self.swap_faces(pair, given, target, self.chosen(target, self.faces_in(target)))
            if all(face.problem for face in made.faces):
                raise made.faces[0].problem or RowError(Reason.NO_FACE, "no face was chosen")
        if not self.grid:
            return made
        source = read_side("source", pair.source)
        return replace(made, grid=side_by_side(source, made.faces, with_target=False))

    def _source(self, image: Image) -> Given:
        row: dict[str, Any] = {"image": image}
        selection = self.settings.source_face
        if selection is not None:
            (face,) = self._finder.choose(image, self.faces_in(image), selection, self._wanted)
            row[FACE_AT] = face.centre
        return self._give(self._annotated(row))

    def _swap_face(
        self, picture: Image, changed: Mask, face: TargetFace, given: Given, name: str
    ) -> RowError | None:
        assert face.face is not None  # faces of photographs have crops
        try:
            row = self._annotated({"image": face.face.crop.image, FACE_AT: face.face.centre_in_crop})
        except RowError as error:
            return error
        return self._put(picture, changed, face, row, given, name)

    def _annotated(self, row: dict[str, Any]) -> dict[str, Any]:
        (outcome,) = self.annotator.annotate([row], [MASKS])
        if isinstance(outcome, RowError):
            raise outcome
        return outcome
