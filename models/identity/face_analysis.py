"""insightface's `FaceAnalysis` on local antelopev2 files: the largest face, five points, ArcFace embedding.

Two of the pack's five networks are used: `scrfd_10g_bnkps.onnx` detects, `glintr100.onnx` embeds. The files
are non-commercial (insightface); nothing is ever downloaded. Boxes and points are in the pixels of
`models.faces`: insightface counts from pixel centres, so half a pixel is added.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, Points, require_rgb
from models.identity.arcface_alignment import ARCFACE_SIZE, PIXEL_CENTRE

if TYPE_CHECKING:
    from insightface.app import FaceAnalysis

logger = logging.getLogger(__name__)

PACK_NAME = "antelopev2"
DETECTOR_FILE = "scrfd_10g_bnkps.onnx"
EMBEDDER_FILE = "glintr100.onnx"

ARCFACE_EMBEDDING_SIZE = 512

DETECTION_SIZE = 640
"""Side of the square the photo is fitted into for detection (PuLID, APPLE). insightface 2 would by itself
also look at 128 pixels."""

SCORE_THRESHOLD = 0.5

CPU_PROVIDER = "CPUExecutionProvider"
GPU_PROVIDERS = {
    "cuda": {
        "CUDAExecutionProvider": "onnxruntime-gpu",
        "MIGraphXExecutionProvider": "onnxruntime-migraphx",
        "ROCMExecutionProvider": "onnxruntime-rocm",
    },
    "xpu": {"OpenVINOExecutionProvider": "onnxruntime-openvino"},
    "mps": {"CoreMLExecutionProvider": "onnxruntime"},
}
"""onnxruntime's providers for torch's kinds of GPU, the first that is there is taken; and who has each."""

NUMBERED = ("cuda",)
"""Kinds of GPU whose providers take `device_id`."""

BATCH_SIZE = 32
"""Chips per pass of an embedder that takes several."""


class FaceAnalysisError(RuntimeError):
    """The files or the device cannot be used; the message says what is missing."""


@dataclass(frozen=True)
class DetectedFace:
    """One face of a photograph.

    Attributes:
        box_4: float32 (x0, y0, x1, y1) pixels; may reach beyond the border.
        score: detector's score in 0..1.
        points_52: float32 (5, 2) pixels, in the order of `models.identity.arcface_alignment`.
    """

    box_4: Points
    score: float
    points_52: Points


@dataclass(frozen=True)
class AnalysedFace(DetectedFace):
    """One face of a photograph, embedded.

    Attributes:
        embedding_D: float32 (512,), not normalised, as PuLID takes it.
    """

    embedding_D: NDArray[np.float32]


def find_pack(folder: str | Path) -> Path:
    """The folder that holds the two files: `folder` itself, or the pack inside it.

    The published archive unpacks to `antelopev2/antelopev2/`, and insightface keeps packs under `models/`;
    all these layouts are accepted. A path of one of the two files stands for its folder.

    Raises:
        FileNotFoundError: the files are in none of them; the message names what was looked for and where.
    """
    folder = Path(folder)
    if folder.name in (DETECTOR_FILE, EMBEDDER_FILE):
        folder = folder.parent
    candidates = [folder, folder / PACK_NAME, folder / "models" / PACK_NAME]
    candidates.append(candidates[-1] / PACK_NAME)
    for candidate in candidates:
        if all((candidate / name).is_file() for name in (DETECTOR_FILE, EMBEDDER_FILE)):
            return candidate.resolve()
    raise FileNotFoundError(
        f"no {DETECTOR_FILE} and {EMBEDDER_FILE} side by side in any of "
        f"{', '.join(str(candidate) for candidate in candidates)}: unpack {PACK_NAME}.zip there"
    )


def execution_providers(device: str) -> list[Any]:
    """onnxruntime's providers for a torch device name; a GPU keeps the CPU for what has no GPU kernel.

    Raises:
        FaceAnalysisError: this onnxruntime has no provider for the device.
    """
    import onnxruntime

    kind, _, number = device.partition(":")
    available = onnxruntime.get_available_providers()
    if kind == "cpu":
        return [CPU_PROVIDER]
    if kind not in GPU_PROVIDERS:
        raise FaceAnalysisError(f"onnxruntime runs on 'cpu' or {', '.join(GPU_PROVIDERS)}, not on {device!r}")
    wanted = GPU_PROVIDERS[kind]
    provider = next((name for name in wanted if name in available), None)
    if provider is None:
        raise FaceAnalysisError(
            f"{device!r} was asked for, but this onnxruntime has only {', '.join(available)}: "
            f"install {' or '.join(dict.fromkeys(wanted.values()))} in place of onnxruntime, or ask for 'cpu'"
        )
    options = {"device_id": int(number or 0)} if kind in NUMBERED else {}
    return [(provider, options), CPU_PROVIDER]


class LocalFaceAnalysis:
    """Detection and ArcFace embedding by insightface, from files that are there already.

    Args:
        folder: holds `scrfd_10g_bnkps.onnx` and `glintr100.onnx`; see `find_pack`.
        device: torch device name, such as "cpu" or "cuda:0".
        detection_size: side of the square the photo is fitted into.
        score_threshold: detector score below which there is no face.
        threads: threads of each network on the CPU; 0 lets onnxruntime choose.

    Raises:
        FileNotFoundError: the files are not there.
        FaceAnalysisError: the device cannot be had, or the files are other networks.
    """

    name = "antelopev2_glintr100"

    def __init__(
        self,
        folder: str | Path,
        device: str = "cpu",
        *,
        detection_size: int = DETECTION_SIZE,
        score_threshold: float = SCORE_THRESHOLD,
        threads: int = 0,
    ) -> None:
        pack = find_pack(folder)
        providers = execution_providers(device)
        self._analysis = _open(pack, providers, threads)
        self._embedder: Any = self._analysis.models["recognition"]
        _check(self._analysis, pack, CPU_PROVIDER if len(providers) == 1 else providers[0][0])
        self._analysis.prepare(
            ctx_id=0, det_thresh=score_threshold, det_size=(detection_size, detection_size)
        )
        # A graph exported for one picture at a time says so in its first dimension.
        self._batch_size = 1 if self._embedder.input_shape[0] == 1 else BATCH_SIZE
        logger.info("face analysis: %s on %s, because %r was asked for", pack, providers, device)

    def detect(self, image: Image) -> list[DetectedFace]:
        """All faces of an upright RGB image, uint8 (H, W, 3), largest box first; none is embedded."""
        detector: Any = self._analysis.models["detection"]
        rows_N5, points_N52 = detector.detect(_to_bgr(image))
        faces = [
            DetectedFace(
                box_4=np.asarray(row_5[:4], np.float32) + PIXEL_CENTRE,
                score=float(row_5[4]),
                points_52=np.asarray(points_52, np.float32) + PIXEL_CENTRE,
            )
            for row_5, points_52 in zip(rows_N5, points_N52, strict=True)
        ]
        return sorted(faces, key=lambda face: -_area(face.box_4))

    def analyse(self, image: Image) -> list[AnalysedFace]:
        """All faces of an upright RGB image, uint8 (H, W, 3), largest box first."""
        faces = [_face(found) for found in self._analysis.get(_to_bgr(image))]
        return sorted(faces, key=lambda face: -_area(face.box_4))

    def embed_chips(self, chips_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned chips; (N, 512) float32, not normalised.

        Args:
            chips_NHW3: (N, 112, 112, 3) uint8 RGB, as from `models.identity.arcface_alignment.arcface_chip`.

        Raises:
            ValueError: another type or shape.
        """
        if chips_NHW3.dtype != np.uint8 or chips_NHW3.shape[1:] != (ARCFACE_SIZE, ARCFACE_SIZE, 3):
            raise ValueError(
                f"expected uint8 chips (N, {ARCFACE_SIZE}, {ARCFACE_SIZE}, 3), "
                f"got {chips_NHW3.dtype} {chips_NHW3.shape}"
            )
        embeddings_ND = np.empty((len(chips_NHW3), ARCFACE_EMBEDDING_SIZE), np.float32)
        for start in range(0, len(chips_NHW3), self._batch_size):
            part = slice(start, start + self._batch_size)
            embeddings_ND[part] = self._embedder.get_feat([_to_bgr(chip) for chip in chips_NHW3[part]])
        return embeddings_ND


def _open(pack: Path, providers: Sequence[Any], threads: int) -> FaceAnalysis:
    import onnxruntime
    from insightface.app import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A path that is a folder makes insightface read that folder; any other name makes it download.
    try:
        analysis = FaceAnalysis(
            name=str(pack),
            allowed_modules=["detection", "recognition"],
            providers=list(providers),
            sess_options=options,
        )
    except AssertionError as error:  # insightface's way of saying that no file looked like a detector
        raise FaceAnalysisError(f"insightface sees no detector in {pack}: is it the right pack?") from error
    if "recognition" not in analysis.models:
        raise FaceAnalysisError(f"insightface sees no embedder in {pack}: is it the right pack?")
    return analysis


def _check(analysis: FaceAnalysis, pack: Path, provider: str) -> None:
    """Refuse networks other than the two named files, and a session that fell back to another device."""
    for task, file_name in (("detection", DETECTOR_FILE), ("recognition", EMBEDDER_FILE)):
        model: Any = analysis.models[task]
        used = Path(model.model_file).name
        if used != file_name:
            raise FaceAnalysisError(
                f"insightface took {used} for {task}, not {file_name}: keep other networks out of {pack}"
            )
        actual = model.session.get_providers()
        if actual[0] != provider:
            raise FaceAnalysisError(
                f"{file_name} should run on {provider}, but onnxruntime fell back to {', '.join(actual)}: "
                "its GPU libraries did not load"
            )
    detector: Any = analysis.models["detection"]
    if not detector.use_kps:
        raise FaceAnalysisError(f"{DETECTOR_FILE} gives no five points: this is the variant without them")
    shape = list(analysis.models["recognition"].output_shape)
    if shape[-1] != ARCFACE_EMBEDDING_SIZE:
        raise FaceAnalysisError(
            f"{EMBEDDER_FILE} gives {shape}, not {ARCFACE_EMBEDDING_SIZE} numbers for a face"
        )


def _to_bgr(image: Image) -> Image:
    return np.ascontiguousarray(require_rgb(image)[..., ::-1])


def _face(found: Any) -> AnalysedFace:
    return AnalysedFace(
        box_4=np.asarray(found.bbox, np.float32) + PIXEL_CENTRE,
        score=float(found.det_score),
        points_52=np.asarray(found.kps, np.float32) + PIXEL_CENTRE,
        embedding_D=np.asarray(found.embedding, np.float32),
    )


def _area(box_4: Points) -> float:
    return float((box_4[2] - box_4[0]) * (box_4[3] - box_4[1]))
