"""The faces of a photograph, numbered from left to right, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets.landmarks import LandmarkModel
from assets.landmarks_reconstruction import ReconstructionModel
from assets.photo_swaps.settings import FaceSelection
from assets.stage import RowModel
from models.faces.choice import choose_faces, identity_distances
from models.faces.crops import CropStyle, FaceCrop, face_crops
from resources.lake.errors import LakeError
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
        wanted: np.ndarray | None = None,
    ) -> list[PhotoFace]:
        """The faces that are meant, from left to right; `wanted` is the embedding that `closest` looks for.

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
                embeddings_ND = self.embed(image, faces)
                chosen = choose_faces(boxes_N4, "closest", embeddings_ND=embeddings_ND, identity_D=wanted)
                if not chosen:
                    nearest = identity_distances(boxes_N4, embeddings_ND, wanted).min()
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

    def identity(self, image: np.ndarray) -> np.ndarray:
        """dlib's embedding (128,) of a photograph's largest face. Raises RowError where there is none."""
        faces = self.find(image, style="ffhq", size=CROP_PIXELS)
        return self.embed(image, self.choose(image, faces, FaceSelection()))[0]

    def embed(self, image: np.ndarray, faces: Sequence[PhotoFace]) -> np.ndarray:
        """dlib's embeddings (N, 128) of faces of a photograph."""
        from models.identity.embedding import five_points_from_68

        points = [five_points_from_68(face.crop.landmarks_68) for face in faces]
        return self._embedder().embed([image] * len(faces), points)
