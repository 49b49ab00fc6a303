"""Whose face it is: comparisons of identity embeddings of output, source and target.

Embeddings are float arrays (N, D), as numpy arrays or CPU tensors, one row per swap. Use an embedder that did
not take part in training: a network praised by its own judge proves little.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Comparison = Literal["cosine", "l2"]


def _embeddings(*embeddings: ArrayLike) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(embedding, np.float64) for embedding in embeddings]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2:
        raise ValueError(f"embeddings must be (N, D) and agree in shape, got {sorted(shapes)}")
    for array in arrays:
        bad = ~np.isfinite(array).all(axis=1)
        if bad.any():
            raise ValueError(f"embedding row {int(np.argmax(bad))} is not finite")
    return arrays


def identity_similarity(
    first_ND: ArrayLike, second_ND: ArrayLike, comparison: Comparison = "cosine"
) -> NDArray[np.float64]:
    """Likeness of two embeddings per row, higher is more alike, shape (N,).

    "cosine" lies in [-1, 1] and suits ArcFace; "l2" is the negative Euclidean distance and suits dlib's
    network, whose embeddings are compared by distance. Raises `ValueError` for a zero row under "cosine".
    """
    first, second = _embeddings(first_ND, second_ND)
    if comparison == "l2":
        return -np.linalg.norm(first - second, axis=1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    if (lengths == 0).any():
        raise ValueError(f"embedding row {int(np.argmin(lengths))} is zero and has no direction")
    return (first * second).sum(axis=1) / lengths


def identity_leak(
    output_ND: ArrayLike, source_ND: ArrayLike, target_ND: ArrayLike, comparison: Comparison = "cosine"
) -> NDArray[np.bool_]:
    """Whether the output still looks more like the target than like the source, shape (N,); a tie leaks.

    Its mean is the leak rate: 1 for copies of the target, 0 for a swap that always carries the source over.
    """
    to_source = identity_similarity(output_ND, source_ND, comparison)
    to_target = identity_similarity(output_ND, target_ND, comparison)
    return to_target >= to_source
