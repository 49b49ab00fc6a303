"""The stage `landmarks` on photographs with several faces: the policies it states."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from assets.landmarks import FACE_AT, LandmarkModel, LandmarksConfig, landmarks_stage
from assets.stage import StageContext
from models.identity.embedding import IdentityEmbedder, five_points
from resources.lake.lake import Lake
from resources.photos.reasons import Reason, RowError


@pytest.fixture(scope="module")
def tile(astronaut: np.ndarray) -> np.ndarray:
    """The astronaut at the left, Grace Hopper, whose face is larger, at the right of column 512."""
    import matplotlib

    hopper = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert hopper is not None
    hopper = cv2.cvtColor(cv2.resize(hopper, (437, 512), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    return np.concatenate([astronaut, hopper], axis=1)


@pytest.fixture
def annotate(tmp_path: Path):
    lake = Lake.open(tmp_path / "lake", create=True)

    def run(image: np.ndarray, config: LandmarksConfig, **row: object):
        stage = landmarks_stage(config)
        model = LandmarkModel(config, StageContext(lake, stage.resolve_weights(), "cpu", print))
        (outcome,) = model([{"image": image, **row}])
        return outcome

    return run


def test_several_faces_follow_the_stated_policy(tile: np.ndarray, annotate) -> None:
    assert annotate(tile, LandmarksConfig())["face_box"][0] > 512
    refused = annotate(tile, LandmarksConfig(several_faces="quarantine"))
    assert isinstance(refused, RowError)
    assert refused.reason == Reason.SEVERAL_FACES
    tiny = annotate(tile, LandmarksConfig(min_inter_ocular=500))
    assert tiny.reason == Reason.FACE_TOO_SMALL
    turned = annotate(tile, LandmarksConfig(max_yaw=0.1))
    assert turned.reason == Reason.EXTREME_POSE
    empty = annotate(np.full((200, 200, 3), 90, np.uint8), LandmarksConfig())
    assert empty.reason == Reason.NO_FACE


def test_a_face_that_was_chosen_already_is_taken_whatever_the_policy(tile: np.ndarray, annotate) -> None:
    first = annotate(tile, LandmarksConfig(), **{FACE_AT: (250, 120)})
    assert first["face_box"][2] < 512
    assert first["face_count"] == 2
    config = LandmarksConfig(several_faces="quarantine")
    assert annotate(tile, config, **{FACE_AT: np.array([700, 200])})["face_box"][0] > 512


def test_closest_takes_the_wanted_person_or_nobody(tile: np.ndarray, astronaut: np.ndarray, annotate) -> None:
    portrait = annotate(astronaut, LandmarksConfig())
    weights = landmarks_stage(LandmarksConfig(face="closest", closest_to=(0.0,) * 128)).resolve_weights()
    embedder = IdentityEmbedder(weights["dlib_face_recognition"].path, "cpu")
    smaller = np.ascontiguousarray(astronaut[20:, 10:])  # another picture of her
    mesh = portrait["mesh_478"] - np.array([10, 20, 0], np.float32)
    wanted = tuple(embedder.embed([smaller], [five_points(mesh)])[0].tolist())
    found = annotate(tile, LandmarksConfig(face="closest", closest_to=wanted))
    assert found["face_box"][2] < 512  # the smaller face, since it is hers
    assert found["face_count"] == 2
    stranger = tuple(-value for value in wanted)
    nobody = annotate(tile, LandmarksConfig(face="closest", closest_to=stranger))
    assert isinstance(nobody, RowError)
    assert nobody.reason == Reason.NO_FACE
    assert "nearest of 2 faces" in nobody.detail


def test_closest_needs_its_numbers() -> None:
    with pytest.raises(ValidationError, match="takes 128 numbers"):
        LandmarksConfig(face="closest")
    with pytest.raises(ValidationError, match="takes 0 numbers"):
        LandmarksConfig(closest_to=(1.0,))
