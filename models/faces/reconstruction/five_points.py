"""The square crop 3DDFA-V3 looks at: five points of a face aligned to a standard face, and the way back.

The crop is the photograph resized by one factor and cut out around the face; it is not rotated. Coordinates
are pixels with x to the right and y down. Source: Deng et al., "Accurate 3D Face Reconstruction with
Weakly-Supervised Learning" (2019), whose alignment 3DDFA-V3 took over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from models.faces.images import Image, Points, require_points, require_rgb

CROP_SIZE: Final = 224
"""Side of the crop in pixels."""

STANDARD_SCALE: Final = 102.0
"""Crop pixels per unit of `STANDARD_FIVE_POINTS`."""

STANDARD_FIVE_POINTS: Final = (
    (-0.3115, 0.2904, 0.1338),
    (0.3098, 0.2897, 0.1318),
    (0.0033, -0.0462, 0.5524),
    (-0.2522, -0.3813, 0.2241),
    (0.2485, -0.3813, 0.2224),
)
"""Eyes, tip of the nose and corners of the mouth of the standard face, the picture's left first; x to the
right, y up, z to the camera (3DDFA-V3, `similarity_Lm3D_all`, rounded to four digits)."""


@dataclass(frozen=True)
class FivePointAlignment:
    """How a photograph becomes a crop.

    Attributes:
        photo_width: pixels.
        photo_height: pixels.
        scale: resize factor.
        centre_x: x of the standard face's origin in the photograph, in pixels from the left.
        centre_up: its height in pixels above the photograph's last row.
    """

    photo_width: int
    photo_height: int
    scale: float
    centre_x: float
    centre_up: float

    # As in the original, sizes and offsets are whole pixels, cut off towards zero.

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the whole photograph after resizing, in pixels."""
        return int(self.photo_width * self.scale), int(self.photo_height * self.scale)

    @property
    def offset(self) -> tuple[int, int]:
        """(left, top) of the crop in the resized photograph; it may lie outside."""
        width, height = self.resized
        left = width / 2 - CROP_SIZE / 2 + (self.centre_x - self.photo_width / 2) * self.scale
        top = height / 2 - CROP_SIZE / 2 + (self.photo_height / 2 - self.centre_up) * self.scale
        return int(left), int(top)

    @property
    def matrix_2x3(self) -> Points:
        """The transform from the photograph to the crop, (2, 3) float32, as `models.faces.alignment` has
        it.
        """
        (width, height), (left, top) = self.resized, self.offset
        rows = [[width / self.photo_width, 0, -left], [0, height / self.photo_height, -top]]
        return np.array(rows, np.float32)

    @property
    def trans_params(self) -> NDArray[np.float64]:
        """The same as 3DDFA-V3 stores it: width, height, scale, x, height above the last row."""
        values = (self.photo_width, self.photo_height, self.scale, self.centre_x, self.centre_up)
        return np.array(values, np.float64)

    def to_crop(self, points_N2: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the photograph in pixels of the crop, (N, 2) float64."""
        width, height = self.resized
        factors = (width / self.photo_width, height / self.photo_height)
        return points_N2.astype(np.float64) * factors - self.offset

    def to_photo(self, points_N2: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the crop in pixels of the photograph, (N, 2) float64; the inverse of `to_crop`."""
        width, height = self.resized
        factors = (self.photo_width / width, self.photo_height / height)
        return (points_N2.astype(np.float64) + self.offset) * factors

    def crop(self, image: Image) -> Image:
        """Cut the crop out of the photograph, uint8 (224, 224, 3); black where it leaves the photograph.

        Bicubic, and averaging when the photograph shrinks. Only the part inside the crop is resized, so that
        a small face in a large photograph does not blow all of it up.

        Raises:
            ValueError: another size than the alignment was made for.
        """
        image = require_rgb(image)
        if image.shape[:2] != (self.photo_height, self.photo_width):
            raise ValueError(
                f"the photo is {image.shape[1]}x{image.shape[0]} pixels, "
                f"its alignment was made for {self.photo_width}x{self.photo_height}"
            )
        (width, height), (left, top) = self.resized, self.offset
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + CROP_SIZE, width), min(top + CROP_SIZE, height)
        factor_x, factor_y = self.photo_width / width, self.photo_height / height
        inside = PillowImage.fromarray(image).resize(
            (x1 - x0, y1 - y0),
            PillowImage.Resampling.BICUBIC,
            box=(x0 * factor_x, y0 * factor_y, x1 * factor_x, y1 * factor_y),
        )
        frame = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
        frame[y0 - top : y1 - top, x0 - left : x1 - left] = np.asarray(inside)
        return frame


def align_five_points(points_52: Points, size: tuple[int, int]) -> FivePointAlignment:
    """Fit the standard face to five points by least squares under a scaled orthographic camera.

    Args:
        points_52: (5, 2) pixels: eye on the picture's left, eye on its right, tip of the nose, corner of the
            mouth on the left, on the right; as `detection.Detections.keypoints_N52` has them.
        size: (height, width) of the photograph.

    Raises:
        ValueError: a wrong shape, values not finite, points in one place or far outside the photograph.
    """
    height, width = size
    points = require_points(points_52, (5, 2), "points_52").astype(np.float64)
    # The standard face has y up; heights are counted from the last row.
    upright = np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1)
    standard = np.concatenate([np.array(STANDARD_FIVE_POINTS), np.ones((5, 1))], axis=1)
    solution_42 = np.linalg.lstsq(standard, upright, rcond=None)[0]
    pixels_per_unit = np.linalg.norm(solution_42[:3], axis=0).mean()
    if pixels_per_unit < 1e-3:
        raise ValueError("the five points lie in one place: no face can be cropped")
    alignment = FivePointAlignment(
        photo_width=width,
        photo_height=height,
        scale=float(STANDARD_SCALE / pixels_per_unit),
        centre_x=float(solution_42[3, 0]),
        centre_up=float(solution_42[3, 1]),
    )
    (resized_width, resized_height), (left, top) = alignment.resized, alignment.offset
    overlaps = left < resized_width and top < resized_height and min(left, top) > -CROP_SIZE
    if min(resized_width, resized_height) < 1 or not overlaps:
        raise ValueError(
            f"the five points {points.round(1).tolist()} crop nothing of the {width}x{height} photo"
        )
    return alignment


def five_points_of_68(landmarks_68: Points) -> Points:
    """The five points of 68 iBUG landmarks, (5, 2) float32: eyes as the middle of their corners.

    Args:
        landmarks_68: (68, 2) pixels.
    """
    points = require_points(landmarks_68, (68, 2), "landmarks_68")
    eyes = [(points[36] + points[39]) / 2, (points[42] + points[45]) / 2]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)
