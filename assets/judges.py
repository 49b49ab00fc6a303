"""Networks that judge whose face a swap shows, and whether they took part in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from assets.stage import StageConfig, StageContext
from models.metrics.identity import Comparison, identity_leak, identity_similarity

DLIB_SIZE = 256
"""dlib's network sees pictures enlarged to this side, px; its chip is 150 px."""


class JudgeConfig(StageConfig):
    """One network that judges identity. `name` is a part of its metrics' names."""

    name: Literal["dlib", "world"] = Field(description="Which network.")
    weights: str = Field(description="Weight role of its file.")


DLIB = JudgeConfig(name="dlib", weights="dlib_face_recognition")
"""Knows photographs of people; compared by distance."""

WORLD = JudgeConfig(name="world", weights="world_embedder")
"""Knows the rendered world alone; compared by angle."""


class Judge:
    """A judge over pictures that show each pair's face in one place."""

    def __init__(
        self, config: JudgeConfig, context: StageContext, landmarks_N682: Sequence[np.ndarray], size: int
    ) -> None:
        """`landmarks_N682` are pixels at `size`, where the face of the exact answer is."""
        self.name = config.name
        path = context.weight(config.weights)
        self.comparison: Comparison = "l2" if config.name == "dlib" else "cosine"
        if config.name == "dlib":
            from models.identity.embedding import IdentityEmbedder, five_points_from_68

            self._embedder = IdentityEmbedder(path, context.device)
            self._side, five_points = DLIB_SIZE, five_points_from_68
        else:
            from models.identity.arcface_alignment import arcface_points_from_68
            from models.identity.world_embedder import WorldEmbedder

            self._embedder = WorldEmbedder(path, context.device)
            self._side, five_points = size, arcface_points_from_68
        scale = self._side / size
        self._points = [five_points((points * scale).astype(np.float32)) for points in landmarks_N682]

    def embed(self, images_NHWC: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """Embeddings (N, D) of pictures uint8 RGB of the pairs, or of those at `rows`."""
        side = (self._side, self._side)
        enlarged = [
            image if image.shape[:2] == side else cv2.resize(image, side, interpolation=cv2.INTER_CUBIC)
            for image in images_NHWC
        ]
        places = range(len(self._points)) if rows is None else rows
        return self._embedder.embed(enlarged, [self._points[place] for place in places])

    def scores(self, swapped: np.ndarray, truth: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Closeness to the exact answer and leak of the target, by metric, from embeddings (N, D).

        dlib's embeddings have distances, the world's have angles.
        """
        likeness = identity_similarity(swapped, truth, self.comparison)
        leak = identity_leak(swapped, truth, target, self.comparison).astype(np.float64)
        if self.comparison == "l2":
            return {f"id_distance_{self.name}": -likeness, f"id_leak_{self.name}": leak}
        return {f"id_similarity_{self.name}": likeness, f"id_leak_{self.name}": leak}
