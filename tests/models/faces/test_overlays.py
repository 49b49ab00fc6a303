"""Preview pictures: new arrays of the same size, changed only where something was drawn."""

import numpy as np
import pytest

from models.faces.condition import ConditionRecipe
from models.faces.constants import PALETTE
from models.faces.iris import iris_from_mesh
from models.faces.landmarks import landmarks_68_from_mesh
from models.faces.overlays import draw_caption, draw_condition, draw_iris, draw_landmarks, draw_parsing
from models.faces.parsing import parsing_from_mesh


@pytest.fixture(scope="module")
def photo(photos) -> np.ndarray:
    return photos["hopper"]


@pytest.fixture(scope="module")
def landmarks(fits) -> np.ndarray:
    return landmarks_68_from_mesh(fits["hopper"].points_478x3)[:, :2]


@pytest.fixture(scope="module")
def iris(fits) -> np.ndarray:
    return iris_from_mesh(fits["hopper"].points_478x3)


def changed_box(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) around all pixels that differ."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_landmarks_are_drawn_on_their_pixels(photo, landmarks) -> None:
    before = photo.copy()
    result = draw_landmarks(photo, landmarks)
    np.testing.assert_array_equal(photo, before)
    assert (result.shape, result.dtype) == (photo.shape, np.uint8)
    columns, rows = np.floor(landmarks).astype(int).T
    assert (result[rows, columns] == (0, 255, 0)).all()
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    assert np.abs(changed_box(photo, result) - box).max() < 6


def test_each_iris_is_ringed(photo, iris) -> None:
    result = draw_iris(photo, iris)
    for first in (0, 5):
        x, y = np.floor(iris[first]).astype(int)
        assert result[y, x].tolist() == [255, 0, 0]
        radius = np.linalg.norm(iris[first + 1 : first + 5] - iris[first], axis=1).mean()
        for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
            column, row = np.floor(iris[first] + radius * np.array([np.cos(angle), np.sin(angle)])).astype(
                int
            )
            near = result[row - 1 : row + 2, column - 1 : column + 2].astype(int)
            assert ((near[..., 0] > 150) & (near[..., 1] < 110)).any()
    x0, _, x1, _ = changed_box(photo, result)
    assert x0 < iris[0, 0] < iris[5, 0] < x1


def test_parsing_colours_lie_over_the_classes_only(photo, fits) -> None:
    size = photo.shape[:2]
    codes = parsing_from_mesh(fits["hopper"].points_478x3, np.ones(size, np.bool_), size)
    result = draw_parsing(photo, codes)
    np.testing.assert_array_equal(result[codes == 0], photo[codes == 0])
    skin = codes == 1
    expected = 0.5 * photo[skin].astype(float) + 0.5 * np.array(PALETTE[1])
    np.testing.assert_allclose(result[skin], expected, atol=1)
    np.testing.assert_array_equal(draw_parsing(photo, codes, opacity=1.0)[skin][0], PALETTE[1])
    hair = np.full(size, 17, np.uint8)
    np.testing.assert_array_equal(draw_parsing(photo, hair), photo)


def test_condition_overlay_hides_the_visible_face(photo, fits, landmarks, iris) -> None:
    size = photo.shape[:2]
    codes = parsing_from_mesh(fits["hopper"].points_478x3, np.ones(size, np.bool_), size)
    visible = np.zeros(size, np.bool_)
    visible[: size[0] // 3] = True
    config = ConditionRecipe(variant="mask", draw_landmarks=False, draw_iris=False)
    result = draw_condition(photo, codes, visible, landmarks, iris, config)
    hidden = (codes > 0) & visible
    assert hidden.any()
    assert not result[hidden].any()
    np.testing.assert_array_equal(result[~hidden], photo[~hidden])


@pytest.mark.parametrize("side", [16, 64, 512])
def test_a_caption_is_written_in_the_top_left_corner(side: int) -> None:
    grey = np.full((side, side, 3), 120, np.uint8)
    result = draw_caption(grey, "7.31")
    assert (grey == 120).all()
    assert result.shape == grey.shape
    assert (result[0, 0] == 30).all()
    assert result.max() > 180
    if side > 16:
        assert (result[side // 2 :] == 120).all()
        assert (result != draw_caption(grey, "1.37")).any()


def test_captions_take_any_text_and_any_size() -> None:
    grey = np.full((40, 60, 3), 120, np.uint8)
    np.testing.assert_array_equal(draw_caption(grey, "품질"), draw_caption(grey, "??"))
    assert draw_caption(np.zeros((1, 1, 3), np.uint8), "a" * 300).shape == (1, 1, 3)


def test_points_outside_the_picture_do_no_harm() -> None:
    grey = np.full((32, 32, 3), 120, np.uint8)
    points = np.random.default_rng(0).uniform(-4000, 4000, (68, 2)).astype(np.float32)
    assert draw_landmarks(grey, points).shape == grey.shape
    assert draw_iris(grey, points[:10]).shape == grey.shape


def test_wrong_inputs_are_named(photo) -> None:
    with pytest.raises(ValueError, match="landmarks_68 must have shape"):
        draw_landmarks(photo, np.zeros((67, 2), np.float32))
    with pytest.raises(ValueError, match="iris_10 must have shape"):
        draw_iris(photo, np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match="its parsing"):
        draw_parsing(photo, np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="code 19"):
        draw_parsing(photo, np.full(photo.shape[:2], 19, np.uint8))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_caption(np.zeros((3, 3), np.uint8), "x")
