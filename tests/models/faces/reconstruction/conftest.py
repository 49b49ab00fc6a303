"""A face model of nobody, and coefficients of a face that looks at the camera, more or less."""

import numpy as np
import pytest

from models.faces.reconstruction.bfm import FaceModel, synthetic_face_model


@pytest.fixture(scope="session")
def face_model() -> FaceModel:
    return synthetic_face_model(seed=1)


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Coefficients of four faces, float32 (4, 257): frontal, then turned in every direction."""
    random = np.random.default_rng(2)
    rows = random.normal(0, 1, (4, 257))
    rows[:, 224:227] = [[0, 0, 0], [0.3, -0.5, 0.2], [-0.4, 0.7, -0.6], [0.2, 0.9, 1.2]]
    rows[:, 254:] = random.normal(0, 0.08, (4, 3))
    return rows.astype(np.float32)
