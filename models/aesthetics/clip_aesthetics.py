"""`clip_l14_aesthetic`: the aesthetic score APPLE filters its photographs by, roughly 1 to 10.

CLIP ViT-L/14 embeds the picture, and one affine map of the embedding gives the score
(`models.aesthetics.clip_network`). The score of the CPU profiles, `face_quality_v1`, is another measure under
another name: thresholds must not be carried over. torch is imported when a scorer is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, require_rgb

if TYPE_CHECKING:
    from models.aesthetics.network_sizes import ClipAestheticsConfig

SCORER_NAME = "clip_l14_aesthetic"

TRAINING_THRESHOLD = 5.1
"""APPLE trains on photographs that score more than this (data selection of teacher and student)."""

BATCH_SIZE = 16
"""Pictures per pass."""


class AestheticScorer:
    """Scores photographs, with the head folded.

    Args:
        path: safetensors file of tower and head, or with `head_path` of CLIP alone.
        head_path: safetensors file of the head alone.
        device: torch device name, such as "cpu" or "cuda:0".
        config: sizes; the published ones when left out.

    Raises:
        FileNotFoundError: there is no such file.
        models.weight_files.WeightMismatch: a file does not fit.
        RuntimeError: torch does not have the device.
    """

    name = SCORER_NAME

    def __init__(
        self,
        path: str | Path,
        head_path: str | Path | None = None,
        device: str = "cpu",
        config: ClipAestheticsConfig | None = None,
    ) -> None:
        from models.aesthetics.clip_network import fold, load_clip_aesthetics

        self.device = device
        self.network = load_clip_aesthetics(path, head_path, config).to(device)
        self.head = fold(self.network.mlp)

    def score(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Scores (N,) float32 of uint8 RGB photographs (H, W, 3) of any sizes.

        Raises:
            ValueError: an image that is not uint8 RGB.
        """
        import torch

        from models.clip_inputs import clip_input

        size = self.network.config.image_size
        scores_N = np.empty(len(images), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), BATCH_SIZE):
                part = images[start : start + BATCH_SIZE]
                pictures = []
                for image in part:
                    # a copy: decoded photographs may be read-only, and torch warns of that
                    pixels_HW3 = torch.from_numpy(np.array(require_rgb(image), order="C")).to(self.device)
                    pictures.append(clip_input(pixels_HW3.permute(2, 0, 1)[None].float() / 255, size))
                embedding_BE = self.network.embed(torch.cat(pictures))
                scores_N[start : start + len(part)] = self.head(embedding_BE).cpu().numpy()
        return scores_N
