"""Face parsing from mesh polygons, the person mask, and their compressed storage.

The mesh gives skin, brows, eyes, nose, mouth and lips exactly. It says nothing about what lies beyond the
face oval, and nothing here guesses it: hair, ears, hat, glasses, neck and cloth are never claimed and stay
background, and the oval ends below the hairline. A glasses detector is left out on purpose: the one cue at
hand (edges across the bridge of the nose) was seen on too few wearers to be trusted.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.faces import constants, topology
from models.faces.closing import close_after_owner
from models.faces.images import Image, Mask, Points, require_mask, require_points, require_rgb
from models.faces.mesh import quiet_native_log

PERSON_THRESHOLD = 0.5
"""Person probability from which a pixel belongs to the person."""

SECOND_LOOK_SHARE = 0.05
"""Share of a face's oval below which a first mask has missed the person. Of 396 rendered close-ups it holds a
quarter of the oval or more in 388, and at most a two-hundredth in the others."""

SECOND_LOOK_BORDER = 0.5
"""Black border of the second look, as a share of the longer side: the picture fills half the frame then."""

ZSTD_LEVEL = 9
"""Fixed, so that the same mask always gives the same bytes."""

LAYERS = (
    (constants.SKIN, topology.FACE_OVAL),
    (constants.NOSE, topology.NOSE),
    (constants.RIGHT_BROW, topology.RIGHT_BROW),
    (constants.LEFT_BROW, topology.LEFT_BROW),
    (constants.RIGHT_EYE, topology.RIGHT_EYE),
    (constants.LEFT_EYE, topology.LEFT_EYE),
    (constants.MOUTH, topology.MOUTH),
    (constants.UPPER_LIP, topology.UPPER_LIP),
    (constants.LOWER_LIP, topology.LOWER_LIP),
)
"""Polygons in painting order: a later one covers an earlier one."""


def polygon_mask(corners_N2: NDArray[np.floating], size: tuple[int, int]) -> Mask:
    """Pixels whose centre lies inside a polygon (even-odd rule), bool (height, width).

    Exact at every size, unlike drawing routines that also paint the pixels an edge touches; that matters at
    32 px.

    Args:
        corners_N2: polygon corners in continuous pixels; the last joins the first.
        size: (height, width).
    """
    height, width = size
    inside = np.zeros(size, np.bool_)
    corners = corners_N2.astype(np.float64)
    # Only the box around the polygon is looked at: eyes and brows are a hundredth of a photograph.
    (low_x, low_y), (high_x, high_y) = corners.min(axis=0), corners.max(axis=0)
    left, right = (int(np.clip(edge, 0, width)) for edge in (np.floor(low_x), np.ceil(high_x) + 1))
    top, bottom = (int(np.clip(edge, 0, height)) for edge in (np.floor(low_y), np.ceil(high_y) + 1))
    crossings = np.zeros((bottom - top, right - left + 1), np.uint8)
    centres = np.arange(top, bottom) + 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.nonzero((y0 <= centres) != (y1 <= centres))[0]
        if len(rows):
            x = x0 + (centres[rows] - y0) * (x1 - x0) / (y1 - y0)
            # The first column whose centre lies to the right of the crossing.
            columns = np.clip(np.ceil(x - 0.5), left, right).astype(np.intp) - left
            crossings[rows, columns] ^= 1
    filled = np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1]
    inside[top:bottom, left:right] = filled.astype(np.bool_)
    return inside


def parsing_from_mesh(points_478x3: Points, person_mask: Mask, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Class codes of a face from its mesh.

    Args:
        points_478x3: (478, 3) pixels.
        person_mask: (H, W), bool or 0/non-zero; classes are given only where there is a person.
        size: (height, width) of the picture.

    Returns:
        uint8 (H, W) with the codes 0, 1, 2, 3, 4, 5, 10, 11, 12, 13 of `constants.CLASS_NAMES`.

    Raises:
        ValueError: a wrong shape, or a coordinate that is not finite.
    """
    points = require_points(points_478x3, (478, 3), "points_478x3")[:, :2]
    person = require_mask(person_mask, size, "person_mask")
    codes = np.zeros(size, np.uint8)
    for code, polygon in LAYERS:
        codes[polygon_mask(points[list(polygon)], size)] = code
    codes[~person] = constants.BACKGROUND
    return codes


def visible_face_mask(parsing: NDArray[np.uint8], person_mask: Mask) -> Mask:
    """Where the face can be seen: face classes on the person, bool (H, W).

    The person mask cannot tell the person's own hand from the face: occluders that belong to a person, and
    hair that hangs into the oval, count as visible face.
    """
    person = require_mask(person_mask, (parsing.shape[0], parsing.shape[1]), "person_mask")
    return np.isin(parsing, constants.FACE_CLASSES) & person


class PersonSegmenter:
    """MediaPipe's person segmentation. Use it as a context manager, or call `close()`.

    Args:
        tflite_path: `selfie_segmenter.tflite`.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, tflite_path: str | Path) -> None:
        if not Path(tflite_path).is_file():
            raise FileNotFoundError(f"no person segmenter at {tflite_path}")
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        self._mediapipe = mediapipe
        options = vision.ImageSegmenterOptions(
            base_options=BaseOptions(model_asset_path=str(tflite_path)), output_confidence_masks=True
        )
        with quiet_native_log():
            self._segmenter = vision.ImageSegmenter.create_from_options(options)
        close_after_owner(self._segmenter, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the graph; further calls of `segment` fail."""
        self._segmenter.close()

    def probabilities(self, image: Image) -> NDArray[np.float32]:
        """Person probability of every pixel, float32 (H, W) in 0..1."""
        image = np.ascontiguousarray(require_rgb(image))
        picture = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=image)
        masks = self._segmenter.segment(picture).confidence_masks
        if masks is None:
            raise RuntimeError("the segmenter gave no confidence mask: another kind of model?")
        values = np.array(masks[0].numpy_view(), np.float32).reshape(masks[0].height, masks[0].width)
        if values.shape != image.shape[:2]:
            values = cv2.resize(values, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
        return np.clip(values, 0.0, 1.0).astype(np.float32)

    def segment(self, image: Image) -> Mask:
        """Person mask of an upright RGB image, bool (H, W)."""
        return self.probabilities(image) >= PERSON_THRESHOLD

    def segment_with_face(self, image: Image, points_478x3: Points) -> Mask:
        """Person mask of a picture in which a face has been found, bool (H, W).

        The mask of `segment`, unless it misses the face: then the picture is looked at once more within a
        black border, because the network was trained on people with surroundings. The second mask counts
        where it holds more of the face than the first.

        Args:
            image: upright, uint8 (H, W, 3), RGB.
            points_478x3: the face's mesh, (478, 3) px.

        Raises:
            ValueError: a wrong shape, or a coordinate that is not finite.
        """
        first = self.segment(image)
        points = require_points(points_478x3, (478, 3), "points_478x3")[:, :2]
        oval = polygon_mask(points[list(topology.FACE_OVAL)], (image.shape[0], image.shape[1]))
        wanted = SECOND_LOOK_SHARE * oval.sum()
        if (first & oval).sum() >= wanted:
            return first
        border = round(SECOND_LOOK_BORDER * max(image.shape[:2]))
        bordered = np.pad(image, ((border, border), (border, border), (0, 0)))
        second = self.segment(bordered)[border:, border:][: image.shape[0], : image.shape[1]]
        return second if (second & oval).sum() > (first & oval).sum() else first


def encode_codes(codes_HW: NDArray[np.uint8]) -> bytes:
    """Compress class codes, losslessly and deterministically (zstd over the raw bytes).

    Raises:
        ValueError: not a uint8 array of two dimensions.
    """
    if codes_HW.dtype != np.uint8 or codes_HW.ndim != 2:
        raise ValueError(f"class codes must be uint8 HxW, got {codes_HW.dtype} {codes_HW.shape}")
    return _compress(np.ascontiguousarray(codes_HW).tobytes())


def decode_codes(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Class codes of shape `size` = (height, width) from `encode_codes`.

    Raises:
        ValueError: the bytes are damaged or belong to another size.
    """
    values = np.frombuffer(_decompress(data, size[0] * size[1], size), np.uint8)
    return values.reshape(size).copy()


def pack_mask(mask_HW: Mask) -> bytes:
    """Compress a boolean mask to zstd over one bit per pixel, losslessly and deterministically.

    Raises:
        ValueError: not a boolean array of two dimensions.
    """
    if mask_HW.dtype != np.bool_ or mask_HW.ndim != 2:
        raise ValueError(f"a mask must be bool HxW, got {mask_HW.dtype} {mask_HW.shape}")
    return _compress(np.packbits(mask_HW).tobytes())


def unpack_mask(data: bytes, size: tuple[int, int]) -> Mask:
    """The boolean mask of shape `size` = (height, width) from `pack_mask`.

    Raises:
        ValueError: the bytes are damaged or belong to another size.
    """
    count = size[0] * size[1]
    bits = np.frombuffer(_decompress(data, (count + 7) // 8, size), np.uint8)
    return np.unpackbits(bits, count=count).reshape(size).astype(np.bool_)


def _compress(raw: bytes) -> bytes:
    return pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(raw, asbytes=True)


def _decompress(data: bytes, length: int, size: tuple[int, int]) -> bytes:
    """The raw bytes; Arrow refuses a frame that is not exactly `length` long."""
    try:
        return pa.Codec("zstd").decompress(data, decompressed_size=length, asbytes=True)
    except OSError as error:
        raise ValueError(
            f"the {len(data)} bytes do not hold a mask of {size[0]}x{size[1]} pixels: {error}"
        ) from error
