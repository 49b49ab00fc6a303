"""`--method mesh_warp`: photographs swapped by a classical warp. It needs no checkpoint, no base and no lake.

It has no resolution of its own: the source's face is warped to the size it has in the target photograph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from assets.classical_swaps import MESH_WARP
from assets.photo_swaps.face_by_face import FaceByFaceSwapper
from assets.photo_swaps.outputs import TargetFace
from models.baselines.mesh_warp import MeshFace, forehead_of_mesh, mesh_warp_swap
from models.baselines.triangulation import DegenerateGeometry
from models.faces.alignment import invert, place_mask, transform_points, warp
from models.faces.condition import condition_masks
from models.faces.crops import fill_small_holes
from models.faces.images import Image, Mask
from models.faces.parsing import decode_codes, unpack_mask
from resources.photos.reasons import Reason, RowError


class MeshWarper(FaceByFaceSwapper[MeshFace]):
    """Swaps photographs by triangulated warp and Poisson blending; only annotation loads a model."""

    @property
    def model_id(self) -> str:
        """What marks and manifests call it."""
        return MESH_WARP

    def _give(self, row: dict[str, Any]) -> MeshFace:
        return _mesh_face(row)

    def _put(
        self, picture: Image, changed: Mask, face: TargetFace, row: dict[str, Any], given: MeshFace, name: str
    ) -> RowError | None:
        assert face.face is not None  # faces of photographs have crops
        crop, found = face.face.crop, _mesh_face(row)
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
            picture[place] = mesh_warp_swap(given, target)
        except DegenerateGeometry as error:
            return RowError(Reason.FACE_TOO_SMALL, str(error))
        changed |= mask
        face.mask_CC, face.frame, face.condition = found.face_mask, crop.image, crop.image
        face.swapped = warp(picture, crop.matrix_2x3, crop.image.shape[0])
        return None


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
