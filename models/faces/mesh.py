"""Face mesh with iris: MediaPipe's Face Landmarker on a crop around a detected box.

478 points (468 mesh, 10 iris), 52 expression blendshapes and a rigid head transform. The landmarker's own
detector only sees faces that fill much of the picture, so it is given a square crop twice the size of the
detected box.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.closing import close_after_owner
from models.faces.images import Image, Points, require_rgb

logger = logging.getLogger(__name__)

POINT_COUNT = 478
BLENDSHAPE_COUNT = 52

CROP_SCALE = 2.0
"""Side of the crop in units of the longer side of the detected box."""

CROP_PIXELS = 256
"""The crop is resized to this side; the mesh network's own input is 256 x 256."""

CONFIDENCE = 0.3
"""Detection and presence confidence inside the crop; low, because the box already comes from a detector."""


@dataclass(frozen=True)
class MeshFit:
    """One fitted face.

    Attributes:
        points_478x3: float32; x and y in pixels of the image the face was fitted in, z in the same scale
            (smaller = nearer the camera, zero near the centre of the head). Points 468..472 are the iris on
            the image's left (the subject's right eye), 473..477 the other one.
        blendshapes_52: float32 in 0..1, in MediaPipe's order.
        transform_4x4: float32, canonical face (x to the image's right, y up, z towards the camera,
            centimetres) to the camera of the crop.
    """

    points_478x3: Points
    blendshapes_52: Points
    transform_4x4: Points


def square_crop(
    image: Image, box: NDArray[np.floating], scale: float = CROP_SCALE
) -> tuple[Image, tuple[int, int]]:
    """Square crop around a box, border pixels repeated where it leaves the image.

    Args:
        image: uint8 (H, W, 3).
        box: (x0, y0, x1, y1) pixels.
        scale: side of the crop in units of the longer box side.

    Returns:
        the crop (S, S, 3) and the (x, y) of its top-left corner in the image, both whole pixels.

    Raises:
        ValueError: the box is empty, not finite, or does not touch the image.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    height, width = image.shape[:2]
    if not np.isfinite([x0, y0, x1, y1]).all() or x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {box} is empty or not finite")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"box {box} lies outside the {width}x{height} image")
    side = max(1, round(scale * max(x1 - x0, y1 - y0)))
    left = round((x0 + x1) / 2 - side / 2)
    top = round((y0 + y1) / 2 - side / 2)
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    # one axis after the other: five times quicker than both at once
    return image.take(rows, axis=0).take(columns, axis=1), (left, top)


class FaceMesh:
    """MediaPipe Face Landmarker for one face at a time. Use it as a context manager, or call `close()`.

    Not safe for concurrent use from several threads.

    Args:
        task_path: a `face_landmarker.task` bundle.

    Raises:
        FileNotFoundError: there is no file at `task_path`.
    """

    def __init__(self, task_path: str | Path) -> None:
        if not Path(task_path).is_file():
            raise FileNotFoundError(f"no face landmarker bundle at {task_path}")
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        self._mediapipe = mediapipe
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task_path)),
            num_faces=1,
            min_face_detection_confidence=CONFIDENCE,
            min_face_presence_confidence=CONFIDENCE,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        with quiet_native_log():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        close_after_owner(self._landmarker, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the graph; further calls of `fit` fail."""
        self._landmarker.close()

    def fit(self, image: Image, box: NDArray[np.floating]) -> MeshFit | None:
        """Fit the mesh to the face in `box`.

        Args:
            image: uint8 (H, W, 3) RGB, upright.
            box: (x0, y0, x1, y1) pixels of a detected face.

        Returns:
            the fit in pixels of `image`, or None when the crop shows no face, or when the face found in it
            is not the one in the box (its mesh centre lies outside the box).

        Raises:
            ValueError: the box is empty or outside the image.
        """
        crop, (left, top) = square_crop(require_rgb(image), box)
        side = crop.shape[0]
        interpolation = cv2.INTER_AREA if side > CROP_PIXELS else cv2.INTER_CUBIC
        pixels = cv2.resize(crop, (CROP_PIXELS, CROP_PIXELS), interpolation=interpolation)
        picture = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)
        )
        result = self._landmarker.detect(picture)
        if not result.face_landmarks:
            return None
        points = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]], np.float64) * side
        points[:, :2] += (left, top)
        centre_x, centre_y = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
        if not (box[0] <= centre_x <= box[2] and box[1] <= centre_y <= box[3]):
            return None
        blendshapes = np.array([category.score for category in result.face_blendshapes[0]], np.float32)
        if points.shape != (POINT_COUNT, 3) or blendshapes.shape != (BLENDSHAPE_COUNT,):
            raise RuntimeError(
                f"the landmarker gave {points.shape} points and {blendshapes.shape} blendshapes, "
                f"expected ({POINT_COUNT}, 3) and ({BLENDSHAPE_COUNT},): another version of the .task bundle?"
            )
        transform = np.asarray(result.facial_transformation_matrixes[0], np.float32)
        return MeshFit(points.astype(np.float32), blendshapes, transform)


@contextmanager
def quiet_native_log() -> Iterator[None]:
    """Send what MediaPipe's C++ writes to stderr while a graph is built to this module's debug log instead.

    The graph's warnings ignore the usual environment variables, so the file descriptor itself is redirected;
    real faults arrive as Python exceptions and are not affected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as captured:
            os.dup2(captured.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
                captured.seek(0)
                for line in captured.read().decode(errors="replace").splitlines():
                    logger.debug("mediapipe: %s", line)
    finally:
        os.close(saved)
