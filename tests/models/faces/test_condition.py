"""The condition image against the published recipe, step by step."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError

from models.faces.condition import (
    ConditionRecipe,
    condition_image,
    condition_masks,
    iris_dots,
    landmark_dots,
)
from models.faces.constants import CLASS_NAMES, FACE_CLASSES, GLASSES_CLASS, PALETTE
from models.faces.iris import iris_from_mesh
from models.faces.landmarks import landmarks_68_from_mesh

SIDE = 512
PLAIN = ConditionRecipe(draw_landmarks=False, draw_iris=False)
NOTHING = np.zeros((SIDE, SIDE), np.bool_)
FAR = np.full((68, 2), -9000.0, np.float32)


@pytest.fixture(scope="module")
def photo(photos) -> np.ndarray:
    return photos["astronaut"]


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((columns - 226) / 60) ** 2 + ((rows - 120) / 80) ** 2 < 1


@pytest.fixture(scope="module")
def points(fits) -> tuple[np.ndarray, np.ndarray]:
    mesh = fits["astronaut"].points_478x3
    return landmarks_68_from_mesh(mesh)[:, :2], iris_from_mesh(mesh)


def test_constants_are_the_papers() -> None:
    assert len(CLASS_NAMES) == len(PALETTE) == 19
    hidden = {CLASS_NAMES[code] for code in FACE_CLASSES}
    assert hidden.isdisjoint({"background", "earring", "neck", "necklace", "cloth", "hair", "hat"})
    assert len(hidden) == 12
    assert CLASS_NAMES[GLASSES_CLASS] == "glasses"
    assert PALETTE[GLASSES_CLASS] == (255, 0, 255)
    coloured = {code for code, colour in enumerate(PALETTE) if any(colour)}
    assert coloured == set(FACE_CLASSES)


def test_downsample_squeezes_the_whole_photo_to_8_by_8(photo, face, points) -> None:
    result = condition_image(photo, face, NOTHING, points[0], points[1], PLAIN)
    picture = Image.fromarray(photo)
    squeezed = picture.resize((8, 8), Image.Resampling.LANCZOS).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(result[face], np.asarray(squeezed)[face])
    np.testing.assert_array_equal(result[~face], photo[~face])

    repainted = photo.copy()
    repainted[~face] = (0, 0, 255)
    assert (
        condition_image(repainted, face, NOTHING, points[0], points[1], PLAIN)[face] != result[face]
    ).any()


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(512, 512, 8), (32, 32, 4), (300, 257, 8), (64, 91, 7), (40, 64, 50), (40, 64, 1)],
)
def test_any_face_is_the_whole_squeezed_pictures(height: int, width: int, side: int) -> None:
    """Whatever part of the squeezed picture is computed, its pixels are those of the whole."""
    rng = np.random.default_rng(height + side)
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    small = Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS)
    whole = np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))
    config = PLAIN.model_copy(update={"downsample_size": side})
    for number in range(40):
        (left, right), (top, bottom) = (np.sort(rng.integers(0, end + 1, 2)) for end in (width, height))
        bottom = top + 1 + number % 3 if number % 4 == 0 else bottom  # hidden but for a strip
        face = np.zeros((height, width), np.bool_)
        face[top:bottom, left:right] = rng.random(face[top:bottom, left:right].shape) < 0.8
        drawn = condition_image(photo, face, face & False, FAR, FAR[:10], config)
        np.testing.assert_array_equal(drawn, np.where(face[..., None], whole, photo))


def test_downsample_size_of_one_leaves_one_colour(photo, face, points) -> None:
    config = PLAIN.model_copy(update={"downsample_size": 1})
    inside = condition_image(photo, face, NOTHING, points[0], points[1], config)[face]
    assert (inside == inside[0]).all()
    np.testing.assert_allclose(inside[0], photo.reshape(-1, 3).mean(axis=0), atol=40)


def test_mask_is_black_and_blur_is_smooth(photo, face, points) -> None:
    black = condition_image(
        photo, face, NOTHING, points[0], points[1], PLAIN.model_copy(update={"variant": "mask"})
    )
    assert not black[face].any()
    blurred = condition_image(
        photo, face, NOTHING, points[0], points[1], PLAIN.model_copy(update={"variant": "blur"})
    )
    np.testing.assert_array_equal(blurred[~face], photo[~face])
    inside = cv2.erode(face.astype(np.uint8), np.ones((5, 5))).astype(bool)
    steps = np.abs(np.diff(blurred.astype(int), axis=1))[inside[:, 1:]]
    assert steps.max() <= 3  # a Gaussian of 64 px changes a value by at most 255 / (64 sqrt(2 pi)) per pixel
    # An independent Gaussian: OpenCV's, with a true kernel where Pillow approximates by boxes.
    reference = cv2.GaussianBlur(photo, (0, 0), 64, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(blurred[face].astype(int) - reference[face]).mean() < 3


def test_pixels_away_from_face_and_dots_are_the_photos(photo, face, points) -> None:
    landmarks, iris = points
    result = condition_image(photo, face, NOTHING, landmarks, iris, ConditionRecipe())
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    near = np.zeros((SIDE, SIDE), np.bool_)
    for x, y in (*landmarks, *iris):
        near |= (np.abs(columns - x) < 5.5) & (np.abs(rows - y) < 5.5)
    away = ~face & ~near
    assert away.mean() > 0.8
    np.testing.assert_array_equal(result[away], photo[away])


def test_inputs_are_left_alone(photo, face, points) -> None:
    before = photo.copy()
    condition_image(photo, face, face, points[0], points[1], ConditionRecipe())
    np.testing.assert_array_equal(photo, before)


def test_one_landmark_is_a_diamond_of_41_pixels_at_512() -> None:
    dot = landmark_dots(np.array([[100.7, 60.2]], np.float32), (SIDE, SIDE), None)
    rows, columns = np.nonzero(dot)
    assert len(rows) == 41
    assert (np.abs(rows - 60) + np.abs(columns - 100)).max() == 4


def test_one_iris_point_is_a_disc_of_21_pixels() -> None:
    dot = iris_dots(np.array([[100.7, 60.2]], np.float32), (SIDE, SIDE), None)
    rows, columns = np.nonzero(dot)
    assert len(rows) == 21
    assert {(60 + y, 100 + x) for y in range(-2, 3) for x in range(-2, 3) if abs(x * y) < 4} == set(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )


@pytest.mark.parametrize("draw", [landmark_dots, iris_dots])
def test_radius_zero_is_the_pixel_that_holds_the_point(draw) -> None:
    points = np.array([[0.0, 0.0], [31.999, 5.0], [7.5, 31.0], [-0.1, 3.0], [32.0, 3.0]], np.float32)
    rows, columns = np.nonzero(draw(points, (32, 32), 0))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (5, 31), (31, 7)]


@pytest.mark.parametrize(("size", "radius"), [((32, 64), 1), ((512, 512), 2), ((1200, 600), 3)])
def test_the_papers_rule_follows_the_shorter_side(size: tuple[int, int], radius: int) -> None:
    point = np.array([[16.5, 16.5]], np.float32)
    ruled = landmark_dots(point, size, None)
    np.testing.assert_array_equal(ruled, landmark_dots(point, size, radius))
    assert ruled.sum() != landmark_dots(point, size, radius + 1).sum()


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_dots_are_those_of_the_drawing_libraries_wherever_they_lie(radius: int) -> None:
    """One by one, in the middle, across the border and overlapping, against OpenCV and Pillow."""
    rng = np.random.default_rng(radius)
    points = rng.uniform(-8, 88, (68, 2)).astype(np.float32)
    white, red = np.zeros((80, 64), np.uint8), Image.new("L", (64, 80))
    for x, y in np.floor(points).astype(int).tolist():
        if radius:
            cv2.circle(white, (x, y), radius, 255, thickness=2 * radius)
            ImageDraw.Draw(red).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        else:
            cv2.rectangle(white, (x, y), (x, y), 255, thickness=-1)
            ImageDraw.Draw(red).point((x, y), fill=255)
    np.testing.assert_array_equal(landmark_dots(points, (80, 64), radius), white > 0)
    np.testing.assert_array_equal(iris_dots(points, (80, 64), radius), np.asarray(red) > 0)


def test_dots_are_cut_at_the_border_and_far_points_draw_nothing() -> None:
    corner = landmark_dots(np.array([[0.5, 0.5]], np.float32), (SIDE, SIDE), None)
    assert 0 < corner.sum() < 41
    everywhere = np.array([[-1e9, 5], [1e9, 5], [5, 3e38]], np.float32)
    assert not landmark_dots(everywhere, (SIDE, SIDE), None).any()
    assert not iris_dots(everywhere, (SIDE, SIDE), None).any()


def test_white_then_red_then_magenta_tint(photo) -> None:
    landmarks, iris = FAR.copy(), FAR[:10].copy()
    landmarks[0], landmarks[1], iris[0] = (300.5, 300.5), (320.5, 300.5), (300.5, 300.5)
    iris[1] = (340.5, 300.5)
    glasses = NOTHING.copy()
    glasses[300, 310:360] = True
    result = condition_image(photo, NOTHING, glasses, landmarks, iris, ConditionRecipe())
    assert result[300, 300].tolist() == [255, 0, 0]  # red lies over white
    assert result[304, 300].tolist() == [255, 255, 255]  # and the larger white dot shows around it
    assert result[300, 320].tolist() == [255, 230, 255]  # 0.9 white + 0.1 magenta: 229.5 rounds up
    assert result[300, 340].tolist() == [255, 0, 26]  # 0.9 red + 0.1 magenta: 25.5 rounds up
    untouched = photo[300, 350].astype(float)
    np.testing.assert_allclose(result[300, 350], untouched * 0.9 + (25.5, 0, 25.5), atol=1)
    assert result[299, 350].tolist() == photo[299, 350].tolist()


def test_dots_can_be_left_out(photo, face, points) -> None:
    full = condition_image(photo, face, NOTHING, points[0], points[1], ConditionRecipe())
    no_iris = condition_image(photo, face, NOTHING, points[0], points[1], ConditionRecipe(draw_iris=False))
    red = (full == (255, 0, 0)).all(axis=2)
    assert red.sum() > 2 * 21
    assert not (no_iris == (255, 0, 0)).all(axis=2).any()
    np.testing.assert_array_equal(full[~red], no_iris[~red])


def test_masks_take_face_classes_that_are_visible() -> None:
    codes = np.arange(19, dtype=np.uint8)[None].repeat(2, axis=0)
    visible = np.array([[True], [False]]).repeat(19, axis=1)
    face_mask, glasses_mask = condition_masks(codes, visible)
    assert np.nonzero(face_mask[0])[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]
    assert np.nonzero(glasses_mask[0])[0].tolist() == [6]
    assert not face_mask[1].any()
    assert not glasses_mask[1].any()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.zeros((SIDE, SIDE), np.uint8), "uint8 RGB"),
        (1, np.zeros((SIDE, 9), np.bool_), "face_mask must have shape"),
        (1, np.zeros((SIDE, SIDE), np.float32), "threshold probabilities"),
        (2, np.zeros((9, SIDE), np.bool_), "glasses_mask must have shape"),
        (3, np.zeros((68, 3), np.float32), r"landmarks_68 must have shape \(68, 2\)"),
        (3, np.full((68, 2), np.nan, np.float32), "landmarks_68 holds"),
        (4, np.full((10, 2), np.inf, np.float32), "iris_10 holds"),
    ],
)
def test_wrong_inputs_are_named(photo, face, points, place: int, value: np.ndarray, message: str) -> None:
    arguments = [photo, face, NOTHING, points[0], points[1]]
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        condition_image(*arguments, config=ConditionRecipe())


def test_config_is_frozen_and_strict() -> None:
    config = ConditionRecipe()
    assert (config.variant, config.downsample_size, config.blur_radius) == ("downsample", 8, 64)
    assert config.draw_landmarks
    assert config.draw_iris
    with pytest.raises(ValidationError):
        config.variant = "blur"
    for wrong in ({"downsample_size": 0}, {"landmark_radius": -1}, {"variant": "deblur"}, {"dots": 3}):
        with pytest.raises(ValidationError):
            ConditionRecipe.model_validate(wrong)
