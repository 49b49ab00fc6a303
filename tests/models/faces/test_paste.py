"""What pasting a face may change: a placed mask, its small holes filled, its large ones kept."""

import cv2
import numpy as np

from models.faces.alignment import paste_back, place_mask
from models.faces.crops import fill_small_holes


def disc(size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    return (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < radius**2


def test_a_glint_is_filled_and_an_occluder_stays() -> None:
    face = disc(128, (64, 64), 50)
    glint, finger, lollipop = disc(128, (50, 50), 2), np.zeros((128, 128), np.bool_), disc(128, (70, 85), 9)
    finger[0:60, 80:84] = True  # thin, but it reaches over the edge
    filled = fill_small_holes(face & ~glint & ~finger & ~lollipop)
    np.testing.assert_array_equal(filled, face & ~finger & ~lollipop)
    np.testing.assert_array_equal(fill_small_holes(face), face)
    assert not fill_small_holes(np.zeros((8, 8), np.bool_)).any()
    assert fill_small_holes(np.ones((8, 8), np.bool_)).all()


def test_nothing_outside_the_placed_mask_changes_and_it_lies_where_the_matrix_says() -> None:
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (150, 200, 3), np.uint8)
    frame = random.integers(0, 256, (64, 64, 3), np.uint8)
    matrix = np.array([[0.6, 0.2, -20], [-0.2, 0.6, 10]], np.float32)
    mask = disc(64, (30, 34), 20)
    placed = place_mask(mask, matrix, (150, 200))
    rows, columns = np.mgrid[:150, :200] + 0.5
    x, y = 0.6 * columns + 0.2 * rows - 20, -0.2 * columns + 0.6 * rows + 10
    distance = np.hypot(x - 30, y - 34)
    assert placed[distance < 19].all()
    assert not placed[distance > 21].any()
    for feather in (0.0, 7.0):
        result = paste_back(photo, frame, matrix, mask, feather)
        np.testing.assert_array_equal(result[~placed], photo[~placed])
        assert (result[placed] != photo[placed]).any(axis=1).mean() > 0.9
    # the fade: at the very edge of the mask the photo prevails, deep inside the frame does
    black, white = np.zeros_like(photo), np.full_like(frame, 255)
    faded = paste_back(black, white, matrix, mask, 7.0)[..., 0]
    depth = cv2.distanceTransform(placed.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert (faded[depth >= 7] == 255).all()
    shallow = (depth > 0) & (depth < 7)
    np.testing.assert_allclose(faded[shallow], 255 * depth[shallow] / 7, atol=1)


def test_a_face_at_the_edge_of_the_photo_is_cut_off_and_one_beside_it_changes_nothing() -> None:
    photo = np.zeros((60, 80, 3), np.uint8)
    frame, everything = np.full((32, 32, 3), 255, np.uint8), np.ones((32, 32), np.bool_)
    corner = np.array([[1, 0, 16], [0, 1, 16]], np.float32)  # the photo's corner is the frame's middle
    expected = np.zeros((60, 80), np.bool_)
    expected[:16, :16] = True
    np.testing.assert_array_equal(place_mask(everything, corner, (60, 80)), expected)
    np.testing.assert_array_equal(paste_back(photo, frame, corner) == 255, expected[..., None].repeat(3, 2))
    # no fade towards the photo's border, for the face goes on behind it
    faded = paste_back(photo, frame, corner, everything, 4.0)[..., 0]
    assert faded[0, 0] == 255
    assert 0 < faded[0, 15] < 128
    far = np.array([[1, 0, -500], [0, 1, 16]], np.float32)
    assert not place_mask(everything, far, (60, 80)).any()
    np.testing.assert_array_equal(paste_back(photo, frame, far, everything, 4.0), photo)
