"""The faces of a photograph, numbered from left to right, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assets.landmarks import LandmarkModel
from assets.landmarks_reconstruction import ReconstructionModel
from assets.photo_swaps.settings import FaceSelection
from assets.stage import RowModel
from models.faces.alignment import transform_points
from models.faces.choice import choose_faces, identity_distances
from models.faces.crops import CropStyle, FaceCrop, face_crops
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright, read_photo
from resources.photos.reasons import Reason, RowError

if TYPE_CHECKING:
    from models.identity.embedding import IdentityEmbedder

CROP_PIXELS = 256
"""Smallest side of an aligned crop: what the face models see, however small the swap model is."""


@dataclass(frozen=True)
class PhotoFace:
    """One face of a photograph and its place from left to right, from 0."""

    index: int
    crop: FaceCrop

    @property
    def centre(self) -> np.ndarray:
        """Middle of its box (2,) in pixels of the photograph, float32."""
        box_4 = self.crop.box_4
        return ((box_4[:2] + box_4[2:]) / 2).astype(np.float32)

    @property
    def centre_in_crop(self) -> np.ndarray:
        """The same place (2,) in pixels of its aligned crop."""
        return transform_points(self.centre[None], self.crop.matrix_2x3)[0]


class FaceFinder:
    """Faces by the detector and the mesh of the profile's stage `landmarks`, under its threshold.

    Args:
        model: the loaded model of that stage.
        embedder: gives dlib's network; called when a face is chosen by its likeness.

    Raises:
        LakeError: the model finds no faces by detector and mesh.
    """

    def __init__(self, model: RowModel, embedder: Callable[[], IdentityEmbedder]) -> None:
        model = model.mesh if isinstance(model, ReconstructionModel) else model
        if not isinstance(model, LandmarkModel):
            raise LakeError("this profile's landmarks come without a face detector; use --raw-frame")
        self._model, self._embedder = model, embedder

    def find(self, image: np.ndarray, *, style: CropStyle, size: int) -> list[PhotoFace]:
        """Every face of an upright photograph with its aligned crop. Raises RowError where there is none."""
        crops = face_crops(
            image,
            self._model.detector,
            self._model.mesh,
            choice="all",
            style=style,
            size=max(size, CROP_PIXELS),
            score_threshold=self._model.config.detection_threshold,
        )
        if not crops:
            threshold = self._model.config.detection_threshold
            raise RowError(Reason.NO_FACE, f"no face scores {threshold} or more and takes the mesh")
        return [PhotoFace(index, crop) for index, crop in enumerate(crops)]

    def choose(
        self,
        image: np.ndarray,
        faces: Sequence[PhotoFace],
        selection: FaceSelection,
        wanted: Mapping[Path, np.ndarray],
    ) -> list[PhotoFace]:
        """The faces that are meant, from left to right; `closest` looks for one of `wanted`.

        Raises RowError where the photograph has no such face.
        """
        boxes_N4 = np.stack([face.crop.box_4 for face in faces])
        match selection.choice:
            case "all":
                return list(faces)
            case "largest":
                return [faces[index] for index in choose_faces(boxes_N4, "largest")]
            case "index":
                if absent := [index for index in selection.indices if index >= len(faces)]:
                    raise RowError(
                        Reason.NO_FACE, f"there is no face {absent[0]}: {len(faces)} were found, from 0 on"
                    )
                return [faces[index] for index in sorted(selection.indices)]
            case "closest":
                assert selection.photo is not None  # of that choice
                embeddings_ND, identity_D = self.embed(image, faces), wanted[selection.photo]
                chosen = choose_faces(boxes_N4, "closest", embeddings_ND=embeddings_ND, identity_D=identity_D)
                if not chosen:
                    nearest = identity_distances(boxes_N4, embeddings_ND, identity_D).min()
                    raise RowError(
                        Reason.NO_FACE,
                        f"none of {len(faces)} faces is the wanted person; the nearest is {nearest:.2f} away",
                    )
                return [faces[chosen[0]]]

    def too_small(self, face: PhotoFace) -> RowError | None:
        """Why a face of the photograph is refused for its size, or None. An enlarged crop would hide it."""
        limit = self._model.config.min_inter_ocular
        if face.crop.inter_ocular >= limit:
            return None
        return RowError(
            Reason.FACE_TOO_SMALL,
            f"the eyes are {face.crop.inter_ocular:.1f} px apart, the profile wants {limit:g}",
        )

    def wanted(self, *selections: FaceSelection | None) -> dict[Path, np.ndarray]:
        """dlib's embedding (128,) of the largest face of every photograph that selections look for.

        Raises LakeError where one shows nobody.
        """
        photos = {selection.photo for selection in selections if selection is not None}
        return {photo: self._identity(photo) for photo in photos if photo is not None}

    def _identity(self, photo: Path) -> np.ndarray:
        try:
            image = decode_upright(read_photo(photo))
            faces = self.find(image, style="ffhq", size=CROP_PIXELS)
            return self.embed(image, self.choose(image, faces, FaceSelection(), {}))[0]
        except RowError as error:
            raise LakeError(f"{photo} shows nobody to look for: {error}") from error

    def embed(self, image: np.ndarray, faces: Sequence[PhotoFace]) -> np.ndarray:
        """dlib's embeddings (N, 128) of faces of a photograph."""
        from models.identity.embedding import five_points_from_68

        points = [five_points_from_68(face.crop.landmarks_68) for face in faces]
        return self._embedder().embed([image] * len(faces), points)
