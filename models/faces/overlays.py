"""Preview pictures for the user interface: annotations drawn over the photograph.

Every function takes an upright uint8 RGB photo and returns a new one of the same size.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.condition import ConditionRecipe, condition_image, condition_masks
from models.faces.constants import PALETTE
from models.faces.images import Image, Mask, Points, require_points, require_rgb

LANDMARK_COLOUR = (0, 255, 0)
IRIS_COLOUR = (255, 0, 0)
OUTLINE_COLOUR = (255, 255, 255)

SHIFT_BITS = 3
"""OpenCV draws at eighths of a pixel."""

LANDMARK_GROUPS = (
    (0, 17, False),
    (17, 22, False),
    (22, 27, False),
    (27, 31, False),
    (31, 36, False),
    (36, 42, True),
    (42, 48, True),
    (48, 60, True),
    (60, 68, True),
)
"""(first, end, closed) of each line through the 68 points."""


def draw_landmarks(image: Image, landmarks_68: Points) -> Image:
    """The 68 landmarks as green dots, joined by thin lines in their groups.

    Args:
        image: uint8 (H, W, 3).
        landmarks_68: (68, 2) pixels.
    """
    result = require_rgb(image).copy()
    points = require_points(landmarks_68, (68, 2), "landmarks_68")
    unit = _unit(points)
    for first, end, closed in LANDMARK_GROUPS:
        line = _fixed_point(points[first:end])[:, None]
        cv2.polylines(result, [line], closed, OUTLINE_COLOUR, 1, cv2.LINE_AA, SHIFT_BITS)
    _dots(result, points, max(1.0, unit / 45), LANDMARK_COLOUR)
    return result


def draw_iris(image: Image, iris_10: Points) -> Image:
    """Each iris as a red circle through its rim points, with its centre.

    Args:
        image: uint8 (H, W, 3).
        iris_10: (10, 2) pixels; see `models.faces.iris.iris_from_mesh`.
    """
    result = require_rgb(image).copy()
    points = require_points(iris_10, (10, 2), "iris_10")
    for first in (0, 5):
        centre, rim = points[first], points[first + 1 : first + 5]
        radius = float(np.linalg.norm(rim - centre, axis=1).mean())
        middle = _fixed_point(centre[None])[0]
        scaled = max(1, round(radius * 2**SHIFT_BITS))
        cv2.circle(result, (int(middle[0]), int(middle[1])), scaled, IRIS_COLOUR, 1, cv2.LINE_AA, SHIFT_BITS)
        _dots(result, centre[None], max(0.5, radius / 5), IRIS_COLOUR)
    return result


def draw_parsing(image: Image, codes_HW: NDArray[np.uint8], opacity: float = 0.5) -> Image:
    """The class colours over the photo; background and classes without a colour stay as photographed.

    Args:
        image: uint8 (H, W, 3).
        codes_HW: class codes 0..18, uint8 (H, W).
        opacity: share of the class colour, 0..1.

    Raises:
        ValueError: another size, or a code that is no class.
    """
    image = require_rgb(image)
    if codes_HW.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]}, its parsing {codes_HW.shape}")
    if codes_HW.size and codes_HW.max() >= len(PALETTE):
        raise ValueError(f"code {codes_HW.max()} is none of the {len(PALETTE)} face-parsing classes")
    colours = np.array(PALETTE, np.uint8)[codes_HW]
    painted = colours.any(axis=2)
    mixed = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    result = image.copy()
    result[painted] = mixed[painted]
    return result


def draw_condition(
    image: Image,
    codes_HW: NDArray[np.uint8],
    visible_HW: Mask,
    landmarks_68: Points,
    iris_10: Points,
    config: ConditionRecipe,
) -> Image:
    """The condition image of an annotated photo; see `models.faces.condition`."""
    face_mask, glasses_mask = condition_masks(codes_HW, visible_HW)
    return condition_image(image, face_mask, glasses_mask, landmarks_68, iris_10, config)


def draw_caption(image: Image, text: str) -> Image:
    """A line of text in the top-left corner, white on a dark bar, sized to the photo.

    Args:
        image: uint8 (H, W, 3).
        text: plain ASCII; other characters are drawn as question marks.
    """
    result = require_rgb(image).copy()
    height, width = result.shape[:2]
    printable = text.encode("ascii", "replace").decode()
    scale = max(0.3, min(height, width) / 400)
    thickness = max(1, round(scale * 1.5))
    (text_width, text_height), below = cv2.getTextSize(printable, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    margin = max(2, text_height // 3)
    bar = result[: text_height + below + 2 * margin, : text_width + 2 * margin]
    bar[:] = bar // 4
    origin = (margin, margin + text_height)
    cv2.putText(
        result, printable, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, OUTLINE_COLOUR, thickness, cv2.LINE_AA
    )
    return result


def _unit(landmarks_68: Points) -> float:
    """Distance between the outer eye corners in pixels, the measure for pen sizes."""
    return float(np.linalg.norm(landmarks_68[45] - landmarks_68[36]))


def _fixed_point(points_N2: Points) -> NDArray[np.int32]:
    """Continuous pixels to OpenCV's fixed-point coordinates, which count from pixel centres."""
    return np.round((points_N2 - 0.5) * 2**SHIFT_BITS).astype(np.int32)


def _dots(canvas: Image, points_N2: Points, radius: float, colour: tuple[int, int, int]) -> None:
    """Fill a disc around each point, in place."""
    scaled = max(1, round(radius * 2**SHIFT_BITS))
    for x, y in _fixed_point(points_N2):
        cv2.circle(canvas, (int(x), int(y)), scaled, colour, -1, cv2.LINE_AA, SHIFT_BITS)
