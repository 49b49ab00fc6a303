"""`--method mesh_warp`: photographs swapped by a classical warp. It needs no checkpoint, no base and no lake.

It has no resolution of its own: the source's face is warped to the size it has in the target photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from assets.classical_swaps import MESH_WARP
from assets.landmarks import FACE_AT
from assets.photo_swaps.annotation import MASKS, Annotator
from assets.photo_swaps.faces import PhotoFace
from assets.photo_swaps.outputs import SwappedPhoto, TargetFace, side_by_side
from assets.photo_swaps.pairs import PhotoPair
from assets.photo_swaps.settings import FaceSelection, SwapSettings
from models.baselines.mesh_warp import MeshFace, forehead_of_mesh, mesh_warp_swap
from models.baselines.triangulation import DegenerateGeometry
from models.faces.alignment import invert, place_mask, transform_points, warp
from models.faces.condition import condition_masks
from models.faces.crops import fill_small_holes
from models.faces.images import Image, Mask
from models.faces.parsing import decode_codes, unpack_mask
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright, read_photo
from resources.photos.reasons import Reason, RowError

ANNOTATED_SIDE = 512
"""Side of the aligned crop in which a target's mask and points are found, px."""


class MeshWarper:
    """Swaps photographs by triangulated warp and Poisson blending; only annotation loads a model.

    Args:
        annotator: the profile's annotation.
        settings: which faces, and how crops are aligned.
        grid: whether grids are drawn.

    Raises:
        LakeError: the photograph of a wanted person cannot be used.
    """

    model_id = MESH_WARP

    def __init__(self, annotator: Annotator, settings: SwapSettings, *, grid: bool = False) -> None:
        self.annotator, self.settings, self.grid = annotator, settings, grid
        self._finder = annotator.finder()
        choices = (settings.faces, settings.source_face)
        self._wanted = {
            choice.photo: self._identity(choice.photo)
            for choice in choices
            if choice is not None and choice.photo is not None
        }

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

    def _swap(self, pair: PhotoPair) -> SwappedPhoto:
        if pair.problem is not None:
            raise pair.problem
        with _about("source"):
            source = decode_upright(read_photo(pair.source))
            given = self._source_face(source)
        with _about("target"):
            target = decode_upright(read_photo(pair.target))
            chosen = self._choose(target, self.settings.faces)
        faces = [TargetFace(face, problem=self._finder.too_small(face)) for face in chosen]
        picture, changed = target.copy(), np.zeros(target.shape[:2], np.bool_)
        for face in faces:
            if face.problem is None:
                face.problem = self._warp(picture, changed, face, given)
        if all(face.problem for face in faces):
            with _about("target"):
                raise faces[0].problem or RowError(Reason.NO_FACE, "no face was chosen")
        grid = side_by_side(source, faces, with_target=False) if self.grid else None
        return SwappedPhoto(picture, changed, faces, grid)

    def _source_face(self, image: Image) -> MeshFace:
        row: dict[str, Any] = {"image": image}
        if self.settings.source_face is not None:
            (face,) = self._choose(image, self.settings.source_face)
            row[FACE_AT] = _centre(face)
        return _mesh_face(self._annotated(row))

    def _warp(self, picture: Image, changed: Mask, face: TargetFace, source: MeshFace) -> RowError | None:
        """Swap one face of a picture in place, and mark where; or say why not."""
        assert face.face is not None  # faces of photographs have crops
        crop = face.face.crop
        at = transform_points(_centre(face.face)[None], crop.matrix_2x3)[0]
        try:
            found = _mesh_face(self._annotated({"image": crop.image, FACE_AT: at}))
        except RowError as error:
            return error
        mask = place_mask(found.face_mask, crop.matrix_2x3, picture.shape[:2])
        if not mask.any():
            return RowError(Reason.FACE_TOO_SMALL, "no pixel of the face is left in the photograph")
        (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
        place = (slice(top, bottom + 1), slice(left, right + 1))
        back, corner = invert(crop.matrix_2x3), np.array([left, top], np.float32)
        assert found.forehead is not None  # the mesh gives it
        target = MeshFace(
            np.ascontiguousarray(picture[place]),
            transform_points(found.landmarks_68, back) - corner,
            mask[place],
            transform_points(found.forehead, back) - corner,
        )
        try:
            picture[place] = mesh_warp_swap(source, target)
        except DegenerateGeometry as error:
            return RowError(Reason.FACE_TOO_SMALL, str(error))
        changed |= mask
        face.mask_CC, face.frame, face.condition = found.face_mask, crop.image, crop.image
        face.swapped = warp(picture, crop.matrix_2x3, crop.image.shape[0])
        return None

    def _annotated(self, row: dict[str, Any]) -> dict[str, Any]:
        (outcome,) = self.annotator.annotate([row], [MASKS])
        if isinstance(outcome, RowError):
            raise outcome
        return outcome

    def _choose(self, image: Image, selection: FaceSelection) -> list[PhotoFace]:
        found = self._finder.find(image, style=self.settings.crop, size=ANNOTATED_SIDE)
        wanted = None if selection.photo is None else self._wanted[selection.photo]
        return self._finder.choose(image, found, selection, wanted)

    def _identity(self, path: Path) -> np.ndarray:
        """Embedding of the person that `closest` looks for."""
        try:
            return self._finder.identity(decode_upright(read_photo(path)))
        except RowError as error:
            raise LakeError(f"{path} shows nobody to look for: {error}") from error


@contextmanager
def _about(side: str) -> Iterator[None]:
    """A RowError from within says which photograph it is about."""
    try:
        yield
    except RowError as error:
        raise RowError(error.reason, f"{side}: {error.detail}") from error


def _centre(face: PhotoFace) -> np.ndarray:
    box_4 = face.crop.box_4
    return ((box_4[:2] + box_4[2:]) / 2).astype(np.float32)


def _mesh_face(row: dict[str, Any]) -> MeshFace:
    """An annotated picture as the warp takes it; small holes of the mask are filled."""
    size = row["image"].shape[:2]
    codes, visible = decode_codes(row["parsing"], size), unpack_mask(row["visible_face"], size)
    return MeshFace(
        row["image"],
        np.asarray(row["landmarks_68"], np.float32).reshape(68, 2),
        fill_small_holes(condition_masks(codes, visible)[0]),
        forehead_of_mesh(np.asarray(row["mesh_478"]).reshape(478, -1)),
    )
