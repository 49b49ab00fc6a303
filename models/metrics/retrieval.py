"""ID retrieval: is the source found again among all sources, from the swap alone?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROWS = 4096
"""Queries at a time; bounds the matrix of similarities."""


def retrieval_ranks(
    queries_ND: ArrayLike,
    query_people: Sequence[str],
    gallery_MD: ArrayLike,
    gallery_people: Sequence[str],
) -> NDArray[np.int64]:
    """Rank of each query's own person in the gallery by cosine, 1 is best, shape (N,).

    A person may have several photographs in the gallery; the most similar of them counts. The rank is one
    more than the number of photographs of *others* that are at least as similar, so a tie never helps. Rank
    at most k is a top-k hit.

    Args:
        queries_ND: embeddings (N, D) of the swaps.
        query_people: whose identity each swap should carry.
        gallery_MD: embeddings (M, D) of source photographs, each photograph once.
        gallery_people: who is in each of them.

    Raises:
        ValueError: shapes that do not agree, a row without direction, or a person who is not in the gallery.
    """
    queries, gallery = _directions(queries_ND, "query"), _directions(gallery_MD, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} numbers and the gallery {gallery.shape[1]}")
    if len(query_people) != len(queries) or len(gallery_people) != len(gallery):
        raise ValueError(
            f"{len(queries)} queries of {len(query_people)} people, {len(gallery)} gallery photographs of "
            f"{len(gallery_people)}"
        )
    absent = set(query_people) - set(gallery_people)
    if absent:
        raise ValueError(f"nobody in the gallery is {min(absent)}: its own source must be there")
    wanted, present = np.asarray(query_people, object), np.asarray(gallery_people, object)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        similarity_NM = queries[rows] @ gallery.T
        own_NM = wanted[rows, None] == present[None]
        best_N1 = np.where(own_NM, similarity_NM, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = 1 + ((similarity_NM >= best_N1) & ~own_NM).sum(axis=1)
    return ranks


def _directions(embeddings: ArrayLike, what: str) -> NDArray[np.float64]:
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{what} embeddings must be (N, D), got {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(rows).all(axis=1) | (lengths[:, 0] == 0)
    if bad.any():
        raise ValueError(f"{what} row {int(np.argmax(bad))} is zero or not finite and has no direction")
    return rows / lengths
