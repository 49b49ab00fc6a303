"""Rendered photographs annotated as the pipeline annotates any: by detectors, with the errors they make.

A base that has only seen exact points and masks loses an eighth of its swaps where the face mesh draws the
jaw a tenth of the face away. So the last part of its training sees condition images of both kinds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

import numpy as np
from numpy.typing import NDArray

from models.faces.detection import CenterFace, choose_face
from models.faces.frame import FaceFrame, face_frame
from models.faces.images import Image
from models.faces.iris import iris_from_mesh
from models.faces.landmarks import landmarks_68_from_mesh
from models.faces.mesh import FaceMesh
from models.faces.parsing import PersonSegmenter, parsing_from_mesh, visible_face_mask

SCORE_THRESHOLD = 0.35
"""Of CenterFace, as in the stage `landmarks`."""


@dataclass(frozen=True)
class DetectorFiles:
    """Model files of the detectors that the CPU profiles annotate with."""

    centerface: Path
    face_landmarker: Path
    person_segmenter: Path


class DetectedFrames:
    """Annotates photographs at a model's size; every thread of its own loads the three models once."""

    def __init__(self, files: DetectorFiles, size: int, workers: int = 1) -> None:
        self._files, self._size, self._workers = files, size, workers
        self._own = local()

    def annotate(self, images_NHW3: NDArray[np.uint8]) -> list[FaceFrame | None]:
        """Return one frame per photograph, in order; None where no face or no visible part of it is found."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._frame, images_NHW3))

    def _frame(self, image: Image) -> FaceFrame | None:
        if not hasattr(self._own, "models"):
            files = self._files
            self._own.models = (
                CenterFace(files.centerface),
                FaceMesh(files.face_landmarker),
                PersonSegmenter(files.person_segmenter),
            )
        detector, face_mesh, segmenter = self._own.models
        found = detector.detect(image, score_threshold=SCORE_THRESHOLD)
        chosen = choose_face(found)
        if chosen is None:
            return None
        fit = face_mesh.fit(image, found.boxes_N4[chosen])
        if fit is None:
            return None
        mesh = fit.points_478x3
        person = segmenter.segment_with_face(image, mesh)
        parsing = parsing_from_mesh(mesh, person, image.shape[:2])
        visible = visible_face_mask(parsing, person)
        if not visible.any():
            return None
        points = landmarks_68_from_mesh(mesh)[:, :2]
        return face_frame(image, parsing, visible, points, iris_from_mesh(mesh), self._size)
