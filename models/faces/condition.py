"""APPLE's condition image: the photo with its face made unrecognisable, landmarks and gaze drawn on top.

Source: the APPLE paper (CVPR 2026), section on the attribute condition, and its released preprocessing. All
masks are hard, and the order of the steps is part of the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
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
    return np.isin(parsing_HW, FACE_CLASSES) & visible, (parsing_HW == GLASSES_CLASS) & visible


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
    result[face] = _replacement(image, config)[face]
    if config.draw_landmarks:
        result[landmark_dots(landmarks, size, config.landmark_radius)] = LANDMARK_COLOUR
    if config.draw_iris:
        result[iris_dots(iris, size, config.iris_radius)] = IRIS_COLOUR
    if glasses.any():
        colour = np.full_like(result, GLASSES_COLOUR)
        tinted = cv2.addWeighted(result, 1 - GLASSES_OPACITY, colour, GLASSES_OPACITY, 0)
        result[glasses] = tinted[glasses]
    return result


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
    if radius is None:
        radius = max(min(size) // LANDMARK_SIDE_DIVISOR, 1)
    canvas = np.zeros(size, np.uint8)
    for x, y in _pixels(landmarks, size):
        if radius == 0:
            cv2.rectangle(canvas, (x, y), (x, y), 255, thickness=-1)
        else:
            cv2.circle(canvas, (x, y), radius, 255, thickness=2 * radius)
    return canvas > 0


def iris_dots(iris: Points, size: tuple[int, int], radius: int | None) -> Mask:
    """Pixels covered by the iris dots, bool (H, W).

    A dot is a filled Pillow ellipse from -radius to +radius; with the paper's radius of 2 that is 21 pixels.

    Args:
        iris: (N, 2) pixels.
        size: (height, width).
        radius: 0 for single pixels, None for the paper's 2.
    """
    if radius is None:
        radius = IRIS_RADIUS
    canvas = PillowImage.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for x, y in _pixels(iris, size):
        if radius == 0:
            draw.point((x, y), fill=255)  # Pillow draws nothing for an ellipse of one pixel
        else:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(canvas) > 0


def _pixels(points_N2: Points, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The (column, row) that holds each point; far-away points are brought near enough for the drawing
    libraries."""
    height, width = size
    reach = max(height, width)
    columns_rows = np.floor(points_N2)
    columns_rows = np.clip(columns_rows, -reach, (width + reach, height + reach)).astype(int)
    return [(int(x), int(y)) for x, y in columns_rows]


def _replacement(image: Image, config: ConditionRecipe) -> Image:
    """What stands where the face was, uint8 (H, W, 3)."""
    picture = PillowImage.fromarray(image)
    match config.variant:
        case "downsample":
            squeezed = picture.resize(
                (config.downsample_size, config.downsample_size), PillowImage.Resampling.LANCZOS
            )
            return np.asarray(squeezed.resize(picture.size, PillowImage.Resampling.LANCZOS))
        case "blur":
            return np.asarray(picture.filter(ImageFilter.GaussianBlur(config.blur_radius)))
        case "mask":
            return np.zeros_like(image)
