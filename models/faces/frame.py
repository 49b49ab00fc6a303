"""The square frame a swap model works on: photo, masks and points brought to one side length.

As in the original, the whole photo is the frame: it is resized to the square, neither cropped nor aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.faces.condition import ConditionRecipe, condition_image, condition_masks


@dataclass(frozen=True)
class FaceFrame:
    """One photo at the model's size: RGB uint8 (S, S, 3), masks bool (S, S), points in px of the frame."""

    image: np.ndarray
    face_mask: np.ndarray
    glasses_mask: np.ndarray
    landmarks_68: np.ndarray
    iris_10: np.ndarray

    @property
    def face_fraction(self) -> float:
        """Share of the frame's pixels that are face, 0..1."""
        return float(self.face_mask.mean())


def square_picture(image: np.ndarray, size: int) -> np.ndarray:
    """A whole picture, RGB uint8 (H, W, 3), resized to a square of `size` pixels, uint8 (S, S, 3).

    Pixels are averaged when shrinking and interpolated when growing.
    """
    shrinks = size < min(image.shape[:2])
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def face_frame(
    image: np.ndarray,
    parsing_HW: np.ndarray,
    visible_HW: np.ndarray,
    landmarks_68: np.ndarray,
    iris_10: np.ndarray,
    size: int,
) -> FaceFrame:
    """Bring a photo and its annotation to a square of `size` pixels.

    Args:
        image: upright RGB uint8 (H, W, 3).
        parsing_HW: class codes, uint8 (H, W).
        visible_HW: visible-face mask, bool (H, W).
        landmarks_68: (68, 2) px of `image`.
        iris_10: (10, 2) px of `image`.
        size: side of the frame, px.

    Pixels are averaged when shrinking and interpolated when growing; masks take the nearest pixel.
    """
    height, width = image.shape[:2]
    if parsing_HW.shape != (height, width) or visible_HW.shape != (height, width):
        raise ValueError(
            f"the photo is {height}x{width}, its parsing {parsing_HW.shape}, its mask {visible_HW.shape}"
        )
    scale = np.array([size / width, size / height], np.float32)

    def nearest(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.view(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST).view(np.bool_)

    face, glasses = condition_masks(parsing_HW, visible_HW)
    return FaceFrame(
        image=square_picture(image, size),
        face_mask=nearest(face),
        glasses_mask=nearest(glasses),
        landmarks_68=(landmarks_68 * scale).astype(np.float32),
        iris_10=(iris_10 * scale).astype(np.float32),
    )


def frame_condition(frame: FaceFrame, config: ConditionRecipe) -> np.ndarray:
    """The condition image of a frame, uint8 RGB (S, S, 3)."""
    return condition_image(
        frame.image, frame.face_mask, frame.glasses_mask, frame.landmarks_68, frame.iris_10, config
    )
