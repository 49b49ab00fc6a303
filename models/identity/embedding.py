"""Identity embeddings of photographs: align the face, embed it, compare two.

The embedder of the CPU profiles is dlib's ResNet. Two photographs show the same person when the Euclidean
distance of their embeddings is below `SAME_PERSON_DISTANCE`. torch is imported when an embedder is built, so
that planning and reports can name the sizes without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import DLIB_CHIP_SIZE, align_to_dlib, five_points, warp
from models.faces.images import Image, Points, require_points

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EMBEDDING_SIZE",
    "SAME_PERSON_DISTANCE",
    "IdentityEmbedder",
    "distance_matrix",
    "five_points",
    "five_points_from_68",
    "same_person",
]

EMBEDDING_SIZE = 128

SAME_PERSON_DISTANCE = 0.6
"""dlib's published decision threshold (99.38 % on LFW, with dlib's own alignment)."""

FIVE_OF_68 = (45, 42, 36, 39, 33)
"""iBUG indices of dlib's five points: subject's left eye outer and inner corner, right eye outer and inner
corner, base of the nose."""

BATCH_SIZE = 32
"""Chips per forward pass; bounds the memory of `IdentityEmbedder.embed`."""


def five_points_from_68(landmarks_68: Points) -> Points:
    """dlib's five points of 68 landmarks in iBUG order.

    Args:
        landmarks_68: (68, 2) or (68, 3) pixels; a depth is ignored.

    Returns:
        (5, 2) float32 pixels, in the order of `FIVE_OF_68`.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    columns = 3 if landmarks_68.ndim == 2 and landmarks_68.shape[1] == 3 else 2
    return require_points(landmarks_68, (68, columns), "landmarks_68")[list(FIVE_OF_68), :2]


class IdentityEmbedder:
    """dlib's face network behind an alignment to five points.

    Args:
        dat_path: `dlib_face_recognition_resnet_model_v1.dat`.
        device: torch device name, such as "cpu" or "cuda:0".

    Raises:
        FileNotFoundError: there is no such file.
        models.identity.dlib_resnet.DatError: the file is not that network.
        RuntimeError: torch does not have the device.
    """

    name = "dlib_face_recognition_resnet_v1"

    def __init__(self, dat_path: str | Path, device: str = "cpu") -> None:
        from models.identity.dlib_resnet import load_dlib_resnet

        self.device = device
        self.network = load_dlib_resnet(dat_path).to(device)

    def chips(self, images: Sequence[Image], landmark5: Sequence[Points]) -> NDArray[np.uint8]:
        """Aligned faces as the network sees them, uint8 (N, 150, 150, 3). Arguments as of `embed`."""
        if len(images) != len(landmark5):
            raise ValueError(f"{len(images)} images but {len(landmark5)} sets of five points")
        chips_N = np.empty((len(images), DLIB_CHIP_SIZE, DLIB_CHIP_SIZE, 3), np.uint8)
        for row, (image, points) in enumerate(zip(images, landmark5, strict=True)):
            chips_N[row] = warp(image, align_to_dlib(points), DLIB_CHIP_SIZE)
        return chips_N

    def embed(self, images: Sequence[Image], landmark5: Sequence[Points]) -> NDArray[np.float32]:
        """Embed one face of each image.

        Args:
            images: uint8 RGB (H, W, 3), upright, any sizes.
            landmark5: (5, 2) pixels of each image in the order of `FIVE_OF_68`; see `five_points` for a mesh
                and `five_points_from_68` for landmarks.

        Returns:
            (N, 128) float32, each of length about 1.4; not normalised, because the threshold is not either.

        Raises:
            ValueError: different counts, an image that is not uint8 RGB, or points that are unusable.
        """
        import torch

        embeddings_ND = np.empty((len(images), EMBEDDING_SIZE), np.float32)
        chips_N = self.chips(images, landmark5)
        with torch.inference_mode():
            for start in range(0, len(chips_N), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                chips_BHW3 = torch.from_numpy(chips_N[part]).to(self.device)
                embeddings_ND[part] = self.encode(chips_BHW3.permute(0, 3, 1, 2).float()).cpu().numpy()
        return embeddings_ND

    def encode(self, x_B3HW: Tensor) -> Tensor:
        """Embed chips that are aligned already; gradients flow to the chips.

        Args:
            x_B3HW: (B, 3, 150, 150) float RGB in 0..255 on the embedder's device.

        Returns:
            (B, 128) of the same type.

        Raises:
            ValueError: another shape.
        """
        return self.network(x_B3HW)


def distance_matrix(first_ND: NDArray[np.floating], second_MD: NDArray[np.floating]) -> NDArray[np.float32]:
    """Euclidean distance of every pair, (N, M) float32.

    Raises:
        ValueError: not two matrices with the same number of columns.
    """
    if first_ND.ndim != 2 or second_MD.ndim != 2 or first_ND.shape[1] != second_MD.shape[1]:
        raise ValueError(f"expected (N, D) and (M, D), got {first_ND.shape} and {second_MD.shape}")
    first, second = first_ND.astype(np.float64), second_MD.astype(np.float64)
    # |a - b|² expanded: the plain difference would need N x M x D numbers at once.
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.sqrt(squared.clip(min=0)).astype(np.float32)


def same_person(
    first_ND: NDArray[np.floating],
    second_MD: NDArray[np.floating],
    threshold: float = SAME_PERSON_DISTANCE,
) -> NDArray[np.bool_]:
    """Whether each pair is one person: distance strictly below `threshold`, bool (N, M)."""
    return distance_matrix(first_ND, second_MD) < threshold
