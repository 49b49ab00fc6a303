"""The identity expert: the face comes to be the source's, by a face embedder.

1 - cosine to the source's embedding, averaged over random views of the face inside the target's mask
(DiffFace, section 3.3). By default the face is aligned by the target's landmarks, as its embedder was
trained, and compared with the embedding that the denoiser is given; the published program shows the whole
frame (`CompatConfig.nearest_identity_crop`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.diffface.experts.augmentation import random_views
from models.diffface.experts.expert import Prepared, SwapPair, stacked
from models.diffface.randomness import Moment
from models.diffface.settings import DiffFaceSettings
from models.swap.identity_crop import CroppedFaceEncoder, full_frame

Reference = Literal["conditioning", "source_photograph"]
Surroundings = Literal["black", "target"]


class IdentityExpert:
    """Guides towards the source's identity, and measures how near a picture is to it.

    Args:
        encoder: network and alignment, with the crop `aligned`.
        reference: what the face is compared with. `conditioning` is the embedding the denoiser gets, which
            must be of the same network; `source_photograph` embeds the source's photograph by its own
            landmarks.
        surroundings: what the network sees around the face: `black` as published, or the target, for
            networks that never saw a face cut out.

    Raises:
        ValueError: an encoder with another crop.
    """

    name = "identity"

    def __init__(
        self,
        encoder: CroppedFaceEncoder,
        *,
        reference: Reference = "conditioning",
        surroundings: Surroundings = "black",
    ) -> None:
        if encoder.config.crop != "aligned":
            raise ValueError(
                f"the identity expert aligns by itself; give the crop aligned, not {encoder.config.crop}"
            )
        self._encoder = encoder
        self._reference: Reference = reference
        self._surroundings: Surroundings = surroundings

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        """The argument `loss_weight`, at every step."""
        return settings.loss_weight

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        """Keep the source's embedding, the mask and the target's five points.

        Raises:
            ValueError: the conditioning is of another embedder, or the source's photograph has to be embedded
                and has no landmarks.
        """
        unaligned = settings.compat.nearest_identity_crop
        kept = {"reference": self._source(pair, settings), "mask": pair.mask_1HW, "target": pair.target_3HW}
        if unaligned:
            return Prepared(kept)
        if pair.target_landmarks_682 is None:
            return Prepared(
                kept, note="identity: the target has no landmarks, so the whole frame is compared, unaligned"
            )
        return Prepared({**kept, "points": self._five_points(pair.target_landmarks_682)})

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        """(B,), 0..2, the mean over `aug_num` views."""
        mask = stacked(prepared, "mask")
        faces = images_B3HW * mask
        if self._surroundings == "target":
            faces = faces + stacked(prepared, "target") * (1 - mask)
        views_BVCHW = random_views(self._crops(faces, prepared), settings.aug_num, moment)
        embeddings_BVD = self._embed(views_BVCHW.flatten(0, 1)).unflatten(0, views_BVCHW.shape[:2])
        return (1 - (embeddings_BVD * stacked(prepared, "reference")[:, None]).sum(dim=2)).mean(dim=1)

    @torch.no_grad()
    def distance_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings
    ) -> Tensor:
        """1 - cosine (B,) of finished pictures in 0..1, whole and as they are, to their sources."""
        if settings.compat.nearest_identity_crop:
            crops = full_frame(images_B3HW, self._encoder.config.facts.size)
        else:
            crops = self._crops(images_B3HW, prepared)
        return 1 - (self._embed(crops) * stacked(prepared, "reference")).sum(dim=1)

    def _source(self, pair: SwapPair, settings: DiffFaceSettings) -> Tensor:
        size = self._encoder.config.facts.size
        with torch.no_grad():
            if settings.compat.nearest_identity_crop:
                return self._embed(full_frame(pair.source_3HW[None], size))[0]
            if self._reference == "source_photograph":
                if pair.source_landmarks_682 is None:
                    raise ValueError(
                        "the identity expert embeds the source's photograph and needs its landmarks; give "
                        "source_landmarks, or compare with the conditioning"
                    )
                points = self._five_points(pair.source_landmarks_682)
                return self._embed(self._encoder.crop(pair.source_3HW[None], points[None]))[0]
        expected = self._encoder.config.embedding_size
        if pair.identity_D.shape != (expected,):
            raise ValueError(
                f"the denoiser's identity has {pair.identity_D.shape[0]} numbers, the identity expert's "
                f"embedder {self._encoder.config.label} has {expected}; compare with source_photograph "
                "instead"
            )
        return functional.normalize(pair.identity_D.float(), dim=0)

    def _five_points(self, landmarks_682: Tensor) -> Tensor:
        points = self._encoder.config.facts.five_points(landmarks_682.cpu().numpy())
        return torch.from_numpy(points).to(landmarks_682)

    def _crops(self, images_B3HW: Tensor, prepared: Sequence[Prepared]) -> Tensor:
        """What the network is shown: aligned where there are points, else the whole frame, averaged."""
        size = self._encoder.config.facts.size
        rows = [row for row, kept in enumerate(prepared) if "points" in kept.tensors]
        if not rows:
            return functional.adaptive_avg_pool2d(images_B3HW, size)
        points = stacked([prepared[row] for row in rows], "points")
        aligned = self._encoder.crop(images_B3HW[rows], points)
        if len(rows) == len(images_B3HW):
            return aligned
        whole = functional.adaptive_avg_pool2d(images_B3HW, size)
        return whole.index_copy(0, torch.tensor(rows, device=whole.device), aligned.to(whole))

    def _embed(self, crops_B3HW: Tensor) -> Tensor:
        """Embeddings of length 1."""
        return functional.normalize(self._encoder.network(crops_B3HW).float(), dim=1)
