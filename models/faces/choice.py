"""Which faces of a photograph are meant when there are several."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

FaceChoice = Literal["largest", "centre", "closest", "all"]
"""`largest` box; the box nearest the `centre` of the hull of all boxes, which suits a portrait with
bystanders on both sides; the face `closest` to an identity; or `all`, from left to right."""

CLOSEST_DISTANCE = 0.6
"""Largest distance at which a face counts as the identity's: dlib's published threshold for its network."""


def choose_faces(
    boxes_N4: NDArray[np.floating],
    choice: FaceChoice,
    *,
    embeddings_ND: NDArray[np.floating] | None = None,
    identity_D: NDArray[np.floating] | None = None,
    max_distance: float = CLOSEST_DISTANCE,
) -> list[int]:
    """Indices of the chosen faces: at most one, or with `all` every face from left to right.

    Args:
        boxes_N4: (x0, y0, x1, y1) pixels.
        choice: which faces.
        embeddings_ND: for `closest`, each face's embedding; a row that is not finite is a face without one.
        identity_D: for `closest`, the wanted embedding, by the same network.
        max_distance: for `closest`, the Euclidean distance above which no face is the wanted one.

    Returns:
        An empty list when there is no face, or none close enough.

    Raises:
        ValueError: an unknown choice, or `closest` without embeddings of the right shape.
    """
    if choice not in get_args(FaceChoice):
        raise ValueError(f"unknown policy {choice!r}: use {', '.join(map(repr, get_args(FaceChoice)))}")
    if choice == "closest":
        distances_N = identity_distances(boxes_N4, embeddings_ND, identity_D)
        if not len(boxes_N4):
            return []
        nearest = int(np.argmin(distances_N))
        return [nearest] if distances_N[nearest] <= max_distance else []
    if not len(boxes_N4):
        return []
    if choice == "all":
        return [int(index) for index in np.lexsort((boxes_N4[:, 1], boxes_N4[:, 0]))]
    if choice == "largest":
        return [int(np.argmax(np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1)))]
    centres_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    middle = (boxes_N4[:, :2].min(axis=0) + boxes_N4[:, 2:].max(axis=0)) / 2
    return [int(np.argmin(np.linalg.norm(centres_N2 - middle, axis=1)))]


def identity_distances(
    boxes_N4: NDArray[np.floating],
    embeddings_ND: NDArray[np.floating] | None,
    identity_D: NDArray[np.floating] | None,
) -> NDArray[np.float64]:
    """Euclidean distance of every face to the identity, (N,); infinite for a face without an embedding.

    Raises:
        ValueError: embeddings or identity are missing, or of other shapes.
    """
    if embeddings_ND is None or identity_D is None:
        raise ValueError("the choice 'closest' needs the embedding of every face and of the identity")
    if identity_D.ndim != 1 or embeddings_ND.shape != (len(boxes_N4), len(identity_D)):
        raise ValueError(
            f"{len(boxes_N4)} faces and an identity of {identity_D.shape} need embeddings of "
            f"({len(boxes_N4)}, {identity_D.size}), got {embeddings_ND.shape}"
        )
    distances_N = np.linalg.norm(embeddings_ND.astype(np.float64) - identity_D, axis=1)
    return np.where(np.isfinite(distances_N), distances_N, np.inf)
