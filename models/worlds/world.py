"""The face world's one function: `render(identities, attributes)`.

Rendering identity A with the attributes of a photograph of B gives the exact face swap of A onto that
photograph: the ground truth that no collection of real photographs has.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.worlds.geometry import FACE_DTYPE, shape_face
from models.worlds.landmarks import IRIS_COUNT, LANDMARK_COUNT, place_landmarks
from models.worlds.paint import (
    GLASSES,
    LEFT_BROW,
    LEFT_EYE,
    LOWER_LIP,
    MOUTH,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
    SKIN,
    UPPER_LIP,
)
from models.worlds.parameters import Attributes, Identities
from models.worlds.shading import reduce_samples, render_samples

WORLD_VERSION = "2"
"""Changes whenever the same parameters give other pixels, landmarks or classes."""

VISIBLE_FACE_CLASSES = (
    SKIN, RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE, GLASSES, NOSE, MOUTH, UPPER_LIP, LOWER_LIP
)  # fmt: skip


@dataclass(frozen=True)
class RenderedFaces:
    """A batch of photographs with their exact annotations; pixel centres lie at +0.5.

    `images_NHWC` uint8 RGB; `parsing_NHW` uint8, CelebAMask-HQ classes with the subject's left and right;
    `landmarks_68_N682` float32 pixels in iBUG order; `iris_N102` float32 pixels in the order of mediapipe's
    points 468 to 477: the subject's right eye (left in the picture) then the left one, each as centre, right,
    top, left and bottom of the rim as seen in the picture; `iris_radius_N2` float32 pixels, the subject's
    right eye first; `depth_NHW` float32, how far the head's surface (with ears and the arms of glasses)
    stands in front of the head's centre towards the camera, face units, NaN where there is none. An occluder
    and the front of glasses do not enter the depth.
    """

    images_NHWC: NDArray[np.uint8]
    parsing_NHW: NDArray[np.uint8]
    landmarks_68_N682: NDArray[np.float32]
    iris_N102: NDArray[np.float32]
    iris_radius_N2: NDArray[np.float32]
    depth_NHW: NDArray[np.float32]

    @property
    def visible_face_NHW(self) -> NDArray[np.bool_]:
        """Where the face or glasses on it are seen: no hair, no ears, nothing that an occluder covers."""
        return np.isin(self.parsing_NHW, VISIBLE_FACE_CLASSES)

    def __len__(self) -> int:
        return len(self.images_NHWC)


def _compiled_renderer(source_digest: str):
    """The compiled one-photograph renderer, cached on disk.

    numba's cache looks at the file of the cached function only, not at the files of the functions it calls.
    The digest of all sources with compiled functions is a free variable here and so becomes part of the
    cache's key: a changed source file never meets stale machine code.
    """

    @njit(cache=True, nogil=True, error_model="numpy")
    def render_one(
        row, identities, attributes, faces, supersample, images, parsings, landmarks, irises, radii, depths
    ):
        if source_digest == "":
            raise ValueError("the world's sources have no digest")
        # A numba record does not keep its array alive, so all records live in arrays of the caller.
        identity, attribute, face = identities[row], attributes[row], faces[row]
        size = parsings.shape[1]
        shape_face(identity, attribute, face)
        fine = size * supersample
        image = np.empty((fine, fine, 3))
        labels = np.empty((fine, fine), np.uint8)
        depth = np.empty((fine, fine))
        render_samples(identity, attribute, face, fine, image, labels, depth)
        reduce_samples(image, labels, depth, supersample, images[row], parsings[row], depths[row])
        place_landmarks(face, attribute, size, landmarks[row], irises[row], radii[row])

    return render_one


def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        if b"import njit" in content:
            digest.update(content)
    return digest.hexdigest()


_render_one = _compiled_renderer(_source_digest())


def render(
    identities: Identities,
    attributes: Attributes,
    size: int = 256,
    supersample: int = 2,
    workers: int | None = None,
) -> RenderedFaces:
    """Photographs of the given people, row by row, with the given attributes.

    A pure function: a row's bytes depend on nothing but that row, `size` and `supersample` (samples per pixel
    and axis). `workers` threads share the rows, by default one per core. The first call on a
    machine compiles for some seconds; later processes load the machine code from numba's cache.

    Raises `ValueError` when the two tables differ in length or a size is not positive.
    """
    if len(identities) != len(attributes):
        raise ValueError(
            f"{len(identities)} identities do not match {len(attributes)} attributes: give one each"
        )
    if size < 1 or supersample < 1:
        raise ValueError(f"size and supersample must be positive, got {size} and {supersample}")
    count = len(identities)
    faces = RenderedFaces(
        images_NHWC=np.empty((count, size, size, 3), np.uint8),
        parsing_NHW=np.empty((count, size, size), np.uint8),
        landmarks_68_N682=np.empty((count, LANDMARK_COUNT, 2), np.float32),
        iris_N102=np.empty((count, IRIS_COUNT, 2), np.float32),
        iris_radius_N2=np.empty((count, 2), np.float32),
        depth_NHW=np.empty((count, size, size), np.float32),
    )
    identity_records, attribute_records = identities.records(), attributes.records()
    face_records = np.zeros(count, FACE_DTYPE)

    def render_row(row: int) -> None:
        _render_one(
            row,
            identity_records,
            attribute_records,
            face_records,
            supersample,
            faces.images_NHWC,
            faces.parsing_NHW,
            faces.landmarks_68_N682,
            faces.iris_N102,
            faces.iris_radius_N2,
            faces.depth_NHW,
        )

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for _ in pool.map(render_row, range(count)):
            pass
    return faces
