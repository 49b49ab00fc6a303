"""Constants of the paper and of the annotation schemes it builds on, each with its source."""

from typing import Final

CLASS_NAMES: Final = (
    "background",
    "skin",
    "right_brow",
    "left_brow",
    "right_eye",
    "left_eye",
    "glasses",
    "left_ear",
    "right_ear",
    "earring",
    "nose",
    "mouth",
    "upper_lip",
    "lower_lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
)
"""The 19 face-parsing classes by code (CelebAMask-HQ, in the order of the parser APPLE uses).

Left and right are the subject's: the right eye is on the left of the picture.
"""

BACKGROUND: Final = 0
SKIN: Final = 1
RIGHT_BROW: Final = 2
LEFT_BROW: Final = 3
RIGHT_EYE: Final = 4
LEFT_EYE: Final = 5
GLASSES_CLASS: Final = 6
NOSE: Final = 10
MOUTH: Final = 11
UPPER_LIP: Final = 12
LOWER_LIP: Final = 13

FACE_CLASSES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
"""Classes that the condition image hides (APPLE, condition recipe): skin, brows, eyes, glasses, ears, nose,
mouth
and lips. Earrings, neck, necklace, cloth, hair and hat stay as photographed."""

PALETTE: Final = (
    (0, 0, 0),
    (255, 0, 0),
    (0, 204, 204),
    (0, 0, 204),
    (255, 153, 51),
    (204, 0, 204),
    (255, 0, 255),
    (204, 0, 0),
    (102, 51, 0),
    (0, 0, 0),
    (76, 153, 0),
    (102, 204, 0),
    (255, 255, 0),
    (0, 0, 153),
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
)
"""RGB colour of each class in APPLE's segmentation pictures; classes outside `FACE_CLASSES` are black."""

LANDMARK_COLOUR: Final = (255, 255, 255)
"""Landmark dots of the condition image (APPLE, condition recipe, step 3)."""

IRIS_COLOUR: Final = (255, 0, 0)
"""Iris dots of the condition image (APPLE, condition recipe, step 4)."""

GLASSES_COLOUR: Final = PALETTE[GLASSES_CLASS]
GLASSES_OPACITY: Final = 0.1
"""Share of `GLASSES_COLOUR` mixed into glasses pixels (APPLE, condition recipe, step 5)."""

DOWNSAMPLE_SIZE: Final = 8
"""Side of the square the whole photo is squeezed into, in pixels (APPLE, condition recipe, step 1)."""

BLUR_RADIUS: Final = 64
"""Gaussian radius of the blur variant, in pixels (APPLE, ablation of the condition image)."""

LANDMARK_SIDE_DIVISOR: Final = 200
"""Landmark radius = max(shorter side // 200, 1), pen thickness = twice that (APPLE, landmark drawing)."""

IRIS_RADIUS: Final = 2
"""Iris dots fill the ellipse from -2 to +2 pixels around the point (APPLE, iris drawing)."""
