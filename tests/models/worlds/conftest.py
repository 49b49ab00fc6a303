from __future__ import annotations

import numpy as np
import pytest

from models.worlds import Attributes, Identities, RenderedFaces, render, sample_attributes, sample_identities

FACES = 40


@pytest.fixture(scope="session")
def world_identities() -> Identities:
    return sample_identities(11, FACES)


@pytest.fixture(scope="session")
def world_attributes() -> Attributes:
    return sample_attributes(11, FACES)


@pytest.fixture(scope="session")
def world_faces(world_identities: Identities, world_attributes: Attributes) -> RenderedFaces:
    """Forty photographs of forty people at 256 px."""
    return render(world_identities, world_attributes, 256)


@pytest.fixture(scope="session")
def plain_attributes() -> Attributes:
    """Two frontal photographs with open eyes, a closed mouth, bare ears and no glasses."""
    return sample_attributes(2, 2).replace(
        yaw=np.array([0.0, 0.2]),
        pitch=0.0,
        roll=np.array([0.0, 0.1]),
        mouth_open=0.0,
        smile=0.0,
        blink=0.0,
        gaze_x=0.0,
        gaze_y=0.0,
        frown=0.0,
        glasses=0.0,
        hair_style=0.0,
        lipstick=0.0,
        eye_shadow=0.0,
        blush=0.0,
    )
