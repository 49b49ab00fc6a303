"""The square frame: picture, masks and points are brought to one size together."""

import numpy as np
import pytest

from models.faces.condition import ConditionRecipe
from models.faces.frame import face_frame, frame_condition

LANDMARKS = np.tile(np.array([[30.0, 10.0]], np.float32), (68, 1))
IRIS = np.tile(np.array([[60.0, 20.0]], np.float32), (10, 1))


def blocks() -> tuple[np.ndarray, np.ndarray]:
    """A 40 x 80 picture of four blocks and a parsing: skin top left, glasses top right, hair below."""
    codes = np.full((40, 80), 17, np.uint8)
    codes[:20, :40], codes[:20, 40:] = 1, 6
    image = np.zeros((40, 80, 3), np.uint8)
    image[:20, :40], image[:20, 40:], image[20:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    return image, codes


@pytest.mark.parametrize("size", [8, 20, 128])
def test_everything_is_scaled_together(size: int) -> None:
    image, codes = blocks()
    frame = face_frame(image, codes, np.ones(codes.shape, np.bool_), LANDMARKS, IRIS, size)
    assert frame.image.shape == (size, size, 3)
    half = size // 2
    assert frame.face_mask[:half].all()
    assert not frame.face_mask[half:].any()
    assert frame.face_fraction == 0.5
    np.testing.assert_array_equal(frame.glasses_mask[:half, half:], True)
    assert frame.glasses_mask.mean() == 0.25
    np.testing.assert_allclose(frame.landmarks_68[0], (30 * size / 80, 10 * size / 40))
    np.testing.assert_allclose(frame.iris_10[9], (60 * size / 80, 20 * size / 40))
    assert frame.image[0, 0].tolist() == [200, 0, 0]
    assert frame.image[0, -1].tolist() == [0, 200, 0]
    assert frame.image[-1, 0].tolist() == [0, 0, 200]


def test_hidden_face_stays_as_photographed() -> None:
    image, codes = blocks()
    visible = np.zeros(codes.shape, np.bool_)
    visible[:, :40] = True
    frame = face_frame(image, codes, visible, LANDMARKS, IRIS, 40)
    config = ConditionRecipe(variant="mask", landmark_radius=0, iris_radius=0)
    result = frame_condition(frame, config)
    assert result[10, 15].tolist() == [255, 255, 255]
    assert result[20, 30].tolist() == [255, 0, 0]
    black = (result == 0).all(axis=2)
    assert black.sum() == 20 * 20 - 1
    np.testing.assert_array_equal(result[:20, 20:], frame.image[:20, 20:])


def test_masks_of_another_size_are_refused() -> None:
    image, codes = blocks()
    with pytest.raises(ValueError, match="40x80"):
        face_frame(image, codes[:9], np.ones(codes.shape, np.bool_), LANDMARKS, IRIS, 32)
