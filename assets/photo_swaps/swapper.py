"""A batch of photograph pairs through annotation, model and pasting; what fails fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assets.condition import ConditionStageConfig, row_frame
from assets.landmarks import FACE_AT
from assets.latents import encode_pictures
from assets.photo_swaps.annotation import CONDITION, IDENTITY, Annotator
from assets.photo_swaps.checkpoints import LoadedSwapper, swaps_config
from assets.photo_swaps.faces import FaceFinder, PhotoFace
from assets.photo_swaps.outputs import SwappedPhoto, TargetFace, paste_faces, side_by_side
from assets.photo_swaps.pairs import PhotoPair, of_side, read_side
from assets.photo_swaps.settings import SwapSettings
from assets.recipe_view import DEFAULT_VIEW, RecipeView
from assets.stage import RowStage, StageGraph
from assets.swapping import SOURCE, TARGET, swap_rows
from models.faces.condition import condition_masks
from models.faces.crops import fill_small_holes
from models.faces.frame import frame_condition, square_picture
from models.faces.images import Image
from models.faces.parsing import decode_codes, unpack_mask
from resources.lake.errors import LakeError
from resources.photos.reasons import RowError


@dataclass
class _Work:
    """One pair under way: its photographs, the source's embedding, the target's faces."""

    pair: PhotoPair
    problem: RowError | None = None
    source: Image | None = None
    target: Image | None = None
    condition: Image | None = None
    embedding: np.ndarray | None = None
    faces: list[TargetFace] | None = None


class PhotoSwapper:
    """Swaps photographs as `settings` say; models are loaded once.

    Args:
        annotator: the profile's annotation.
        graph: the profile's stages.
        loaded: base and adapters.
        settings: everything else that decides the pictures.
        grid: whether grids are drawn.
        view: the recipe whose settings are meant.

    Raises:
        LakeError: the photograph of a wanted person cannot be used, or settings clash with the profile.
    """

    def __init__(
        self,
        annotator: Annotator,
        graph: StageGraph,
        loaded: LoadedSwapper,
        settings: SwapSettings,
        *,
        grid: bool = False,
        view: RecipeView = DEFAULT_VIEW,
    ) -> None:
        self.annotator, self.loaded, self.settings, self.grid = annotator, loaded, settings, grid
        self.size = loaded.swapper.base.config.image_size
        config, condition = swaps_config(graph, view), graph[view.condition.condition].config
        swaps = graph[view.own("swaps")]
        assert isinstance(swaps, RowStage)  # `swaps_config` has looked
        self._batch = swaps.batch_size
        assert isinstance(condition, ConditionStageConfig)  # every profile's condition stage has it
        self.recipe = settings.recipe(condition.image)
        try:
            self.sampling = settings.sampling(config.sampling, config.inversion)
        except ValueError as error:
            raise LakeError(str(error)) from error
        needs_finder = not settings.raw_frame or settings.source_face is not None
        self._finder = annotator.finder() if needs_finder else None
        choices = (settings.faces, settings.source_face)
        self._wanted = {} if self._finder is None else self._finder.wanted(*choices)

    @property
    def model_id(self) -> str:
        """What marks and manifests call the model."""
        return self.loaded.model_id

    @property
    def decided(self) -> dict[str, Any]:
        """What decides results besides photographs and settings, for digests."""
        return {
            "condition": self.recipe.model_dump(mode="json"),
            "sampling": self.sampling.model_dump(mode="json"),
            "annotation": [stage.prefix.hex() for stage in self.annotator.graph.stages],
            "base": self.loaded.swapper.base.sha256,
            "model_id": self.model_id,
        }

    def swap(self, pairs: Sequence[PhotoPair]) -> list[SwappedPhoto | RowError]:
        """One outcome per pair, in order. A result does not depend on what else is in the batch."""
        works = [_Work(pair, pair.problem) for pair in pairs]
        for step in (self._read, self._find_faces):
            _each(works, step)
        self._embed_sources(works)
        self._annotate_targets(works)
        faces = [face for work in _going(works) for face in work.faces or () if face.problem is None]
        for start in range(0, len(faces), self._batch):
            self._sample(faces[start : start + self._batch])
        return [self._finish(work) for work in works]

    def identity_of(self, source: Path) -> np.ndarray:
        """The embedding that swaps take of a source. Raises RowError where it cannot be used."""
        work = _Work(PhotoPair(source.stem, source, source), source=read_side("source", source))
        self._embed_sources([work])
        if work.problem is not None:
            raise work.problem
        assert work.embedding is not None  # or there were a problem
        return work.embedding

    def faces_in(self, image: Image) -> list[PhotoFace]:
        """Every face of an upright picture. Raises RowError where there is none."""
        return self._need_finder().find(image, style=self.settings.crop, size=self.size)

    def embed_faces(self, image: Image, faces: Sequence[PhotoFace]) -> np.ndarray:
        """Embeddings (N, 128) that tell people apart, whatever the profile swaps with."""
        return self._need_finder().embed(image, faces)

    def chosen(self, image: Image, faces: Sequence[PhotoFace]) -> list[PhotoFace]:
        """Those that the settings mean. Raises RowError where there are none."""
        return self._need_finder().choose(image, faces, self.settings.faces, self._wanted)

    def swap_faces(
        self, pair: PhotoPair, given: np.ndarray, image: Image, faces: Sequence[PhotoFace]
    ) -> SwappedPhoto:
        """Swap these faces of a picture in memory; each is swapped, or says why not.

        Args:
            pair: names the noise, with each face's `index`.
            given: the source's embedding, see `identity_of`.
            image: the upright picture.
            faces: some of `faces_in(image)`, under indices of the caller's.
        """
        problem = self._need_finder().too_small
        work = _Work(pair, target=image, embedding=given)
        work.faces = [TargetFace(face, problem=problem(face)) for face in faces]
        self._annotate_targets([work])
        ready = [face for face in work.faces if face.problem is None]
        for start in range(0, len(ready), self._batch):
            self._sample(ready[start : start + self._batch])
        return SwappedPhoto(*paste_faces(image, work.faces, self.settings.feather), work.faces, None)

    def _read(self, work: _Work) -> None:
        work.source = read_side("source", work.pair.source)
        work.target = read_side("target", work.pair.target)
        if work.pair.condition is not None:
            work.condition = read_side("condition image", work.pair.condition)

    def _find_faces(self, work: _Work) -> None:
        assert work.target is not None  # it was read
        if self.settings.raw_frame:
            work.faces = [TargetFace()]
            return
        try:
            chosen = self.chosen(work.target, self.faces_in(work.target))
        except RowError as error:
            raise of_side("target", error) from error
        problem = self._need_finder().too_small
        work.faces = [TargetFace(face, problem=problem(face)) for face in chosen]

    def _embed_sources(self, works: Sequence[_Work]) -> None:
        rows: list[dict[str, Any]] = []
        for work in _going(works):
            try:
                rows.append(self._source_row(work))
            except RowError as error:
                work.problem = of_side("source", error)
        for work, outcome in zip(_going(works), self.annotator.annotate(rows, [IDENTITY]), strict=True):
            if isinstance(outcome, RowError):
                work.problem = of_side("source", outcome)
            else:
                work.embedding = outcome[IDENTITY]

    def _source_row(self, work: _Work) -> dict[str, Any]:
        """The source as the annotation takes it; which face is meant, where the settings say so."""
        assert work.source is not None  # it was read
        selection = self.settings.source_face
        if selection is None:
            return {"image": work.source}
        finder = self._need_finder()
        found = finder.find(work.source, style=self.settings.crop, size=self.size)
        (face,) = finder.choose(work.source, found, selection, self._wanted)
        return {"image": work.source, FACE_AT: face.centre}

    def _annotate_targets(self, works: Sequence[_Work]) -> None:
        """Frame, condition image, mask and the model's inputs of every face."""
        faces = [(work, face) for work in _going(works) for face in work.faces or () if face.problem is None]
        rows = [_target_row(work, face) for work, face in faces]
        conditions_given = all(work.condition is not None for work, _ in faces)
        drawn = self.settings.sees_condition_image and not conditions_given
        # a student on a raw frame needs no annotation of its target, nor does a ready-made condition image
        wanted = [CONDITION] if drawn or not self.settings.raw_frame else []
        wanted += [IDENTITY] if (self.sampling.inversion or "").startswith("trgID") else []
        for (work, face), row in zip(faces, self.annotator.annotate(rows, wanted), strict=True):
            if isinstance(row, RowError):
                face.problem = of_side("target", row)
            else:
                self._prepare(work, face, row)

    def _prepare(self, work: _Work, face: TargetFace, row: dict[str, Any]) -> None:
        size = row["image"].shape[:2]
        face.frame = face.condition = square_picture(row["image"], self.size)
        if face.face is not None:
            codes, visible = decode_codes(row["parsing"], size), unpack_mask(row["visible_face"], size)
            face.mask_CC = fill_small_holes(condition_masks(codes, visible)[0])
        if self.settings.sees_condition_image:
            face.condition = (
                frame_condition(row_frame(row, self.size), self.recipe)
                if work.condition is None
                else square_picture(work.condition, self.size)
            )
        place = "" if face.face is None else f":{face.face.index}"
        face.row = {
            "pair_id": f"{work.pair.name}:{self.settings.seed}{place}",
            f"{SOURCE}.identity_embedding": work.embedding,
        }
        if (self.sampling.inversion or "").startswith("trgID"):
            face.row[f"{TARGET}.identity_embedding"] = row[IDENTITY]

    def _sample(self, faces: Sequence[TargetFace]) -> None:
        swapper = self.loaded.swapper
        codec = swapper.base.codec
        targets = encode_pictures(codec, [face.frame for face in faces if face.frame is not None])
        conditions = encode_pictures(codec, [face.condition for face in faces if face.condition is not None])
        rows = [
            face.row | {f"{TARGET}.latent_target": target, f"{TARGET}.latent_condition": condition}
            for face, target, condition in zip(faces, targets, conditions, strict=True)
        ]
        pictures = swap_rows(swapper, rows, "latent_condition", self.sampling)[1]
        for face, picture in zip(faces, pictures, strict=True):
            face.swapped = picture

    def _finish(self, work: _Work) -> SwappedPhoto | RowError:
        faces = work.faces or []
        if work.problem is None and all(face.problem for face in faces):
            work.problem = faces[0].problem
        if work.problem is not None:
            return work.problem
        assert work.source is not None  # both were read
        assert work.target is not None
        first, mask = faces[0].swapped, None
        if self.settings.raw_frame:
            assert first is not None  # the frame has no problem
            picture = first
        else:
            picture, mask = paste_faces(work.target, faces, self.settings.feather)
        grid = None
        if self.grid:
            grid = side_by_side(work.source, faces, with_target=self.settings.inverts)
        return SwappedPhoto(picture, mask, faces, grid)

    def _need_finder(self) -> FaceFinder:
        assert self._finder is not None  # made wherever a face is chosen
        return self._finder


def _target_row(work: _Work, face: TargetFace) -> dict[str, Any]:
    """The picture that is annotated: the whole target, or the aligned crop and where its face is in it."""
    if face.face is None:
        return {"image": work.target}
    return {"image": face.face.crop.image, FACE_AT: face.face.centre_in_crop}


def _going(works: Sequence[_Work]) -> list[_Work]:
    return [work for work in works if work.problem is None]


def _each(works: Sequence[_Work], step: Callable[[_Work], None]) -> None:
    """Run a step on every pair that still goes; a RowError ends that pair alone."""
    for work in _going(works):
        try:
            step(work)
        except RowError as error:
            work.problem = error
