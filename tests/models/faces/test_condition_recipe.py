"""The condition image against a straight-line copy of the published recipe, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from models.faces.condition import ConditionRecipe, condition_image, condition_images

SIZES = [(512, 512), (256, 256), (333, 421)]
DIAMOND = [(x, y) for y in range(-4, 5) for x in range(-4, 5) if abs(x) + abs(y) <= 4]
DISC = [(x, y) for y in range(-2, 3) for x in range(-2, 3) if abs(x * y) < 4]
PEN = {512: DIAMOND, 256: DISC, 333: DISC}
"""Pixels of one landmark dot by the picture's shorter side: OpenCV's circles of radius 2 and 1."""


Scene = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def scene(astronaut: np.ndarray, size: tuple[int, int]) -> Scene:
    """A photo with a face mask, glasses inside it, and points up to the border."""
    height, width = size
    photo = np.asarray(Image.fromarray(astronaut).resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:height, :width]
    face = ((columns - 0.44 * width) / (0.12 * width)) ** 2 + (
        (rows - 0.24 * height) / 0.16 / height
    ) ** 2 < 1
    glasses = face & (np.abs(rows - 0.2 * height) < 0.05 * height)
    random = np.random.default_rng(height)
    landmarks = (random.random((68, 2)) * (width, height)).astype(np.float32)
    landmarks[-4:] = [(0, 7), (width - 0.5, 40), (50, 0.2), (80, height - 0.1)]  # cut off at the border
    iris = (random.random((10, 2)) * (width / 2, height / 2)).astype(np.float32)
    iris[:3] = landmarks[:3]  # red over white
    landmarks[3:8] = np.argwhere(glasses)[::97][:5, ::-1]  # white under the tint
    return photo, face, glasses, landmarks, iris


def straight_line(photo, face, glasses, landmarks, iris, recipe: ConditionRecipe) -> np.ndarray:
    """The recipe in plain loops: squeeze, paste, white, red, tint last."""
    height, width = photo.shape[:2]
    picture = Image.fromarray(photo)
    side = recipe.downsample_size
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    squeezed = np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))
    result = np.where(face[..., None], squeezed if recipe.variant == "downsample" else 0, photo)
    result = result.astype(np.uint8)
    for points, pen, colour in (
        (landmarks if recipe.draw_landmarks else [], PEN[min(height, width)], (255, 255, 255)),
        (iris if recipe.draw_iris else [], DISC, (255, 0, 0)),
    ):
        for x, y in points:
            for dx, dy in pen:
                column, row = int(np.floor(x)) + dx, int(np.floor(y)) + dy
                if 0 <= column < width and 0 <= row < height:
                    result[row, column] = colour
    tinted = np.rint(result * 0.9 + np.array([255, 0, 255]) * 0.1)  # ties to even, as cv2 rounds
    return np.where(glasses[..., None], tinted, result).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "folder",
    [
        "condition_blended_image_blurdownsample8_segGlass_landmark_iris",
        "condition_blended_image_blurdownsample8_segGlass_landmark",
        "condition_blended_image_blurdownsample16_segGlass_landmark_iris",
        "condition_blended_image_mask_segGlass_landmark_iris",
    ],
)
def test_every_pixel_is_the_recipes(astronaut: np.ndarray, size: tuple[int, int], folder: str) -> None:
    recipe = ConditionRecipe.from_folder(folder)
    parts = scene(astronaut, size)
    np.testing.assert_array_equal(condition_image(*parts, recipe), straight_line(*parts, recipe))


def test_the_dots_have_the_published_areas() -> None:
    assert (len(DIAMOND), len(DISC)) == (41, 21)


def test_a_batch_of_several_sizes_is_its_pictures_one_by_one(astronaut: np.ndarray) -> None:
    scenes = [scene(astronaut, size) for size in SIZES]
    photos, faces, glasses, landmarks, iris = (list(part) for part in zip(*scenes, strict=True))
    batch = condition_images(photos, faces, glasses, landmarks, iris, ConditionRecipe())
    for picture, parts in zip(batch, scenes, strict=True):
        np.testing.assert_array_equal(picture, condition_image(*parts, ConditionRecipe()))
    with pytest.raises(ValueError, match="one of each per picture"):
        condition_images(photos, faces, glasses, landmarks, iris[:2], ConditionRecipe())


def test_folder_names_and_recipes_are_one_to_one() -> None:
    recipes = [
        ConditionRecipe(),
        ConditionRecipe(draw_iris=False),
        ConditionRecipe(variant="mask"),
        ConditionRecipe(downsample_size=4, draw_landmarks=False),
        ConditionRecipe(variant="blur", blur_radius=2.5),
    ]
    assert [ConditionRecipe.from_folder(recipe.folder) for recipe in recipes] == recipes
    assert ConditionRecipe().folder == "condition_blended_image_blurdownsample8_segGlass_landmark_iris"
    assert recipes[2].folder == "condition_blended_image_mask_segGlass_landmark_iris"
    for wrong in ("condition", "condition_blended_image_blurdownsample_segGlass", "iris"):
        with pytest.raises(ValueError, match="names no condition image"):
            ConditionRecipe.from_folder(wrong)
