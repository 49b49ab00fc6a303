"""APPLE's condition image: the photo with its face made unrecognisable, landmarks and gaze drawn on top.

Source: the APPLE paper (CVPR 2026), section on the attribute condition, and its released preprocessing. All
masks are hard, and the order of the steps is part of the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from models.faces.constants import (
    BLUR_RADIUS,
    DOWNSAMPLE_SIZE,
    FACE_CLASSES,
    GLASSES_CLASS,
    GLASSES_COLOUR,
    GLASSES_OPACITY,
    IRIS_COLOUR,
    IRIS_RADIUS,
    LANDMARK_COLOUR,
    LANDMARK_SIDE_DIVISOR,
)
from models.faces.images import Image, Mask, Points, require_mask, require_points, require_rgb


class ConditionRecipe(BaseModel):
    """Which condition image is drawn. The defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Literal["downsample", "mask", "blur"] = Field(
        default="downsample",
        description="What replaces the face: the squeezed photo, black (inpainting), or the blurred photo.",
    )
    downsample_size: int = Field(
        default=DOWNSAMPLE_SIZE, ge=1, description="Side the photo is squeezed to in variant downsample, px."
    )
    blur_radius: float = Field(
        default=BLUR_RADIUS, gt=0, description="Gaussian radius of variant blur, in px of the picture."
    )
    draw_landmarks: bool = Field(default=True, description="Whether the 68 white dots are drawn.")
    landmark_radius: int | None = Field(
        default=None,
        ge=0,
        description="Circle radius r of a landmark dot, drawn with a pen of 2 r; 0 is a single pixel; "
        "None is the paper's rule, max(shorter side // 200, 1), made for 512 px.",
    )
    draw_iris: bool = Field(default=True, description="Whether the ten red iris dots are drawn.")
    iris_radius: int | None = Field(
        default=None,
        ge=0,
        description="Iris dots fill the ellipse from -radius to +radius px; 0 is a single pixel; "
        "None is the paper's 2.",
    )

    @property
    def folder(self) -> str:
        """Name of the folder in which APPLE's scripts keep this condition image.

        The names of variant blur and of pictures without landmarks follow the same pattern; APPLE's scripts
        write none.
        """
        face = {
            "downsample": f"blurdownsample{self.downsample_size}",
            "mask": "mask",
            "blur": f"blur{self.blur_radius:g}",
        }[self.variant]
        dots = ("_landmark" if self.draw_landmarks else "") + ("_iris" if self.draw_iris else "")
        return f"condition_blended_image_{face}_segGlass{dots}"

    @classmethod
    def from_folder(cls, name: str) -> ConditionRecipe:
        """The recipe that a folder of condition images is named after, with the paper's dots.

        Raises:
            ValueError: the name follows another pattern.
        """
        found = _FOLDER.fullmatch(name)
        if found is None:
            raise ValueError(
                f"{name!r} names no condition image: expected condition_blended_image_<face>_segGlass"
                "[_landmark][_iris], <face> being blurdownsample<N>, mask or blur<radius>"
            )
        values: dict[str, object] = {
            "draw_landmarks": found["landmark"] is not None,
            "draw_iris": found["iris"] is not None,
        }
        if found["side"]:
            values |= {"variant": "downsample", "downsample_size": int(found["side"])}
        elif found["radius"]:
            values |= {"variant": "blur", "blur_radius": float(found["radius"])}
        else:
            values["variant"] = "mask"
        return cls.model_validate(values)


PIXEL_CONDITION = ConditionRecipe(downsample_size=4, landmark_radius=0, iris_radius=0)
"""For bases of 32 px: dots of one pixel, and a face squeezed to 4 x 4.

The paper's 8 x 8 of 512 px leaves light and colour. Of 32 px it leaves brows, beard and mouth too, and a base
then takes those of the target instead of the source's.
"""


_FOLDER = re.compile(
    r"condition_blended_image_(?:blurdownsample(?P<side>\d+)|mask|blur(?P<radius>\d+(?:\.\d+)?))_segGlass"
    r"(?P<landmark>_landmark)?(?P<iris>_iris)?"
)


def condition_masks(parsing_HW: np.ndarray, visible_HW: np.ndarray) -> tuple[Mask, Mask]:
    """Face mask and glasses mask of a parsing: the classes the paper hides, where the face is visible.

    Args:
        parsing_HW: class codes, uint8 (H, W).
        visible_HW: visible-face mask, (H, W), bool or 0/non-zero.

    Returns:
        face_mask, glasses_mask, both bool (H, W); the glasses are part of the face.
    """
    visible = require_mask(visible_HW, parsing_HW.shape, "visible_HW")
    return is_face(parsing_HW) & visible, (parsing_HW == GLASSES_CLASS) & visible


_IS_FACE = np.isin(np.arange(256), FACE_CLASSES).astype(np.uint8)


def is_face(parsing_HW: NDArray[np.uint8]) -> Mask:
    """Pixels of the classes that the paper hides, bool (H, W), of class codes, uint8 (H, W)."""
    return cv2.LUT(parsing_HW, _IS_FACE).view(np.bool_)


def condition_image(
    image: Image,
    face_mask: Mask,
    glasses_mask: Mask,
    landmarks_68: Points,
    iris_10: Points,
    config: ConditionRecipe,
) -> Image:
    """Draw the condition image.

    1. The face (`face_mask`) is replaced: variant downsample takes the WHOLE photo squeezed to 8x8 and back
       with LANCZOS, so background and hair bleed into it; mask takes black; blur takes the blurred photo.
    2. White landmark dots, over the whole picture and not only inside the mask.
    3. Red iris dots.
    4. Glasses pixels become 0.9 of what is there plus 0.1 magenta.

    A dot is drawn around the pixel that holds its point; dots outside the picture are cut off.

    Args:
        image: uint8 RGB (H, W, 3).
        face_mask: (H, W), bool or 0/non-zero; see `condition_masks`.
        glasses_mask: (H, W), likewise.
        landmarks_68: (68, 2) pixels.
        iris_10: (10, 2) pixels.
        config: which condition image.

    Returns:
        uint8 RGB (H, W, 3); pixels outside the face, the dots and the glasses are those of `image`.

    Raises:
        ValueError: a wrong shape or type, or a coordinate that is not finite.
    """
    image = require_rgb(image)
    size = (image.shape[0], image.shape[1])
    face = require_mask(face_mask, size, "face_mask")
    glasses = require_mask(glasses_mask, size, "glasses_mask")
    landmarks = require_points(landmarks_68, (68, 2), "landmarks_68")
    iris = require_points(iris_10, (10, 2), "iris_10")

    result = image.copy()
    box = _box(face)
    if box is not None:
        _put(result[box], _replacement(image, config, box), face[box])
    if config.draw_landmarks:
        _draw_landmarks(result, landmarks, config.landmark_radius, LANDMARK_COLOUR)
    if config.draw_iris:
        result[_stamped(_pixels(iris, size), size, *_iris_stamp(config.iris_radius))] = IRIS_COLOUR
    box = _box(glasses)
    if box is not None:
        colour = np.full_like(result[box], GLASSES_COLOUR)
        tinted = cv2.addWeighted(result[box], 1 - GLASSES_OPACITY, colour, GLASSES_OPACITY, 0)
        _put(result[box], tinted, glasses[box])
    return result


Box = tuple[slice, slice]
"""Rows and columns of a part of a picture."""


def _box(mask: Mask) -> Box | None:
    """The smallest part of the picture that holds the whole mask; None where it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _put(picture: Image, other: cv2.typing.MatLike, mask: Mask) -> None:
    """Take over the other picture's pixels where the mask is; ten times as fast as indexing by the mask."""
    cv2.copyTo(other, mask.view(np.uint8), picture)


def condition_images(
    images_BHW3: Sequence[Image] | np.ndarray,
    face_masks_BHW: Sequence[Mask] | np.ndarray,
    glasses_masks_BHW: Sequence[Mask] | np.ndarray,
    landmarks_B682: Sequence[Points] | np.ndarray,
    iris_B102: Sequence[Points] | np.ndarray,
    recipe: ConditionRecipe,
) -> list[Image]:
    """`condition_image` of a batch; the pictures may differ in size.

    Raises:
        ValueError: the arguments hold different numbers of pictures, or as `condition_image`.
    """
    parts = (images_BHW3, face_masks_BHW, glasses_masks_BHW, landmarks_B682, iris_B102)
    if len({len(part) for part in parts}) != 1:
        raise ValueError(f"a batch needs one of each per picture, got {[len(part) for part in parts]}")
    return [condition_image(*one, recipe) for one in zip(*parts, strict=True)]


def landmark_dots(landmarks: Points, size: tuple[int, int], radius: int | None) -> Mask:
    """Pixels covered by the landmark dots, bool (H, W).

    A dot is an OpenCV circle of radius r with a pen of 2 r; at 512 px, where r is 2, that is a diamond of 41
    pixels.

    Args:
        landmarks: (N, 2) pixels.
        size: (height, width).
        radius: r; 0 for single pixels, None for the paper's rule.
    """
    canvas = np.zeros(size, np.uint8)
    _draw_landmarks(canvas, landmarks, radius, 255)
    return canvas > 0


def iris_dots(iris: Points, size: tuple[int, int], radius: int | None) -> Mask:
    """Pixels covered by the iris dots, bool (H, W).

    A dot is a filled Pillow ellipse from -radius to +radius; with the paper's radius of 2 that is 21 pixels.

    Args:
        iris: (N, 2) pixels.
        size: (height, width).
        radius: 0 for single pixels, None for the paper's 2.
    """
    canvas = np.zeros(size, np.bool_)
    canvas[_stamped(_pixels(iris, size), size, *_iris_stamp(radius))] = True
    return canvas


Pixels = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows and columns of some pixels."""


@lru_cache
def _landmark_stamp(radius: int) -> Pixels:
    """A landmark dot's pixels, counted from its middle."""
    if radius == 0:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    middle = 2 * radius + 2
    canvas = np.zeros((2 * middle + 1, 2 * middle + 1), np.uint8)
    cv2.circle(canvas, (middle, middle), radius, 255, thickness=2 * radius)
    rows, columns = np.nonzero(canvas)
    return rows - middle, columns - middle


@lru_cache
def _iris_stamp(radius: int | None) -> Pixels:
    """An iris dot's pixels, counted from its middle."""
    radius = IRIS_RADIUS if radius is None else radius
    canvas = PillowImage.new("L", (2 * radius + 1, 2 * radius + 1), 255)
    if radius:  # Pillow draws nothing for an ellipse of one pixel
        canvas.paste(0, (0, 0, *canvas.size))
        ImageDraw.Draw(canvas).ellipse((0, 0, 2 * radius, 2 * radius), fill=255)
    rows, columns = np.nonzero(np.asarray(canvas))
    return rows - radius, columns - radius


def _stamped(
    centres_N2: NDArray[np.int64], size: tuple[int, int], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Pixels:
    """The pixels of a stamp around every centre, as far as they lie in the picture."""
    y, x = (centres_N2[:, 1:] + rows).ravel(), (centres_N2[:, :1] + columns).ravel()
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return y[inside], x[inside]


def _draw_landmarks(
    picture: NDArray[np.uint8], landmarks: Points, radius: int | None, colour: int | tuple[int, int, int]
) -> None:
    """Draw the dots: as one stamp, or by OpenCV at the border, since it cuts them in its own way."""
    size = picture.shape[0], picture.shape[1]
    reach = max(min(size) // LANDMARK_SIDE_DIVISOR, 1) if radius is None else radius
    centres = _pixels(landmarks, size)
    margin = 2 * reach + 2
    free = ((centres >= margin) & (centres < np.array(size[::-1]) - margin)).all(axis=1)
    picture[_stamped(centres[free], size, *_landmark_stamp(reach))] = colour
    for x, y in centres[~free].tolist():
        if reach == 0:
            cv2.rectangle(picture, (x, y), (x, y), colour, thickness=-1)
        else:
            cv2.circle(picture, (x, y), reach, colour, thickness=2 * reach)


def _pixels(points_N2: Points, size: tuple[int, int]) -> NDArray[np.int64]:
    """The (column, row) that holds each point, (N, 2); far-away points are brought near enough for OpenCV."""
    height, width = size
    reach = max(height, width)
    return np.clip(np.floor(points_N2), -reach, (width + reach, height + reach)).astype(np.int64)


def _replacement(image: Image, config: ConditionRecipe, box: Box) -> Image:
    """What stands where the face was, of the part of the picture inside the box, uint8 RGB."""
    rows, columns = box
    match config.variant:
        case "downsample":
            return _squeezed(image, config.downsample_size, box)
        case "blur":
            blurred = PillowImage.fromarray(image).filter(ImageFilter.GaussianBlur(config.blur_radius))
            return np.ascontiguousarray(np.asarray(blurred)[box])
        case "mask":
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)


def _squeezed(image: Image, side: int, box: Box) -> Image:
    """The picture squeezed to `side` pixels and back with LANCZOS, inside the box."""
    height, width = image.shape[:2]
    if side <= min(height, width):
        from models.faces.squeezing import squeezed_and_back  # loads numba, which most commands do without

        return squeezed_and_back(image, side, *box)
    lanczos = PillowImage.Resampling.LANCZOS
    squeezed = PillowImage.fromarray(image).resize((side, side), lanczos)
    return np.ascontiguousarray(np.asarray(squeezed.resize((width, height), lanczos))[box])
