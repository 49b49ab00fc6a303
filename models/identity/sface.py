"""SFace (Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition"), by OpenCV.

The permissive embedder of the commercially clean profile (Apache-2.0). The published ONNX file
`face_recognition_sface_2021dec.onnx` takes BGR chips of 112 pixels and is run by OpenCV's own engine; no
onnxruntime is needed. No package ships the file.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, Points
from models.identity.arcface_alignment import ARCFACE_SIZE, arcface_chip

SFACE_EMBEDDING_SIZE = 128

SFACE_SAME_PERSON_DISTANCE = 1.128
"""OpenCV's published decision threshold for the distance of normalised embeddings (99.60 % on LFW)."""


class SFaceError(ValueError):
    """The file is not a network this module can use."""


class SFaceEmbedder:
    """SFace behind an alignment to five points.

    Args:
        onnx_path: the published ONNX file.
        device: must be "cpu"; the OpenCV packages have no GPU engine.

    Raises:
        FileNotFoundError: there is no such file.
        SFaceError: the file is no ONNX graph of a face recogniser with 128 outputs.
        ValueError: another device.
    """

    name = "sface_2021dec"

    def __init__(self, onnx_path: str | Path, device: str = "cpu") -> None:
        if device != "cpu":
            raise ValueError(f"SFace runs on the CPU only (OpenCV's engine), not on {device!r}")
        if not Path(onnx_path).is_file():
            raise FileNotFoundError(f"no SFace network at {onnx_path}")
        try:
            self._network = cv2.FaceRecognizerSF.create(str(onnx_path), "")
            size = self.embed_chips(np.zeros((1, ARCFACE_SIZE, ARCFACE_SIZE, 3), np.uint8)).shape[1]
        except cv2.error as error:
            raise SFaceError(f"{onnx_path} is no network that OpenCV can run on faces: {error}") from error
        if size != SFACE_EMBEDDING_SIZE:
            raise SFaceError(
                f"{onnx_path} gives {size} numbers for a face, SFace gives {SFACE_EMBEDDING_SIZE}"
            )

    def embed(self, images: Sequence[Image], landmark5: Sequence[Points]) -> NDArray[np.float32]:
        """Embed one face of each image.

        Args:
            images: uint8 RGB (H, W, 3), upright, any sizes.
            landmark5: (5, 2) pixels of each image in the order of `models.identity.arcface_alignment`.

        Returns:
            (N, 128) float32 of length 1; compare by Euclidean distance with `SFACE_SAME_PERSON_DISTANCE`.

        Raises:
            ValueError: different counts, an image that is not uint8 RGB, or points that are unusable.
        """
        if len(images) != len(landmark5):
            raise ValueError(f"{len(images)} images but {len(landmark5)} sets of five points")
        chips_N = np.zeros((len(images), ARCFACE_SIZE, ARCFACE_SIZE, 3), np.uint8)
        for row, (image, points) in enumerate(zip(images, landmark5, strict=True)):
            chips_N[row] = arcface_chip(image, points)
        embeddings_ND = self.embed_chips(chips_N)
        lengths_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
        return embeddings_ND / np.maximum(lengths_N1, np.finfo(np.float32).tiny)

    def embed_chips(self, chips_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed chips (N, 112, 112, 3) uint8 RGB that are aligned already; (N, 128) float32, not normalised.

        Raises:
            ValueError: another type or shape.
        """
        if chips_NHW3.dtype != np.uint8 or chips_NHW3.shape[1:] != (ARCFACE_SIZE, ARCFACE_SIZE, 3):
            raise ValueError(
                f"expected uint8 chips (N, {ARCFACE_SIZE}, {ARCFACE_SIZE}, 3), "
                f"got {chips_NHW3.dtype} {chips_NHW3.shape}"
            )
        rows = [
            # OpenCV gives a view of a buffer that the next chip overwrites.
            np.array(self._network.feature(np.ascontiguousarray(chip[..., ::-1])), np.float32).reshape(-1)
            for chip in chips_NHW3
        ]
        return np.stack(rows) if rows else np.empty((0, SFACE_EMBEDDING_SIZE), np.float32)
