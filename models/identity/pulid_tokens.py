"""From photographs to PuLID's identity tokens.

Two crops of one face are looked at: ArcFace embeds the 112-pixel chip, EVA-CLIP sees the 512-pixel crop with
everything but the face painted white and the face in grey. The ID encoder joins both into 32 tokens.

APPLE takes its tokens from a *masked* source while it trains (only the face of the photograph is kept) and
from the photograph as it is when it swaps. Its own masking code is not published; `mask_source` follows the
evaluation kit of REFace that APPLE names as its model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.clip_inputs import clip_input
from models.faces.constants import CLASS_NAMES, FACE_CLASSES, GLASSES_CLASS
from models.faces.images import Image, require_rgb
from models.identity.arcface_alignment import PULID_CROP_SIZE
from models.identity.eva_clip import EvaClipVision
from models.identity.id_former import IdFormer

SOURCE_CLASSES = tuple(code for code in FACE_CLASSES if code != GLASSES_CLASS)
"""What is kept of a masked source: skin, brows, eyes, ears, nose, mouth and lips (REFace, evaluation kit)."""

WHITE_CLASSES = tuple(
    CLASS_NAMES.index(name)
    for name in ("background", "left_ear", "right_ear", "earring", "neck", "necklace", "cloth", "hat")
)
"""What EVA-CLIP does not see (PuLID, feature extraction). Hair and glasses stay."""

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""ITU-R BT.601 (PuLID)."""

BATCH_SIZE = 8
"""Crops per pass of the image tower."""


def mask_source(image: Image, parsing_HW: NDArray[np.uint8]) -> Image:
    """The photograph with everything but `SOURCE_CLASSES` painted black.

    Args:
        image: uint8 (H, W, 3).
        parsing_HW: uint8 (H, W) codes of `models.faces.constants.CLASS_NAMES`.

    Raises:
        ValueError: not an RGB image, or a parsing of another size.
    """
    image = require_rgb(image)
    if parsing_HW.shape != image.shape[:2]:
        raise ValueError(f"a parsing of {parsing_HW.shape} does not fit a photograph of {image.shape[:2]}")
    return image * np.isin(parsing_HW, SOURCE_CLASSES)[..., None].astype(np.uint8)


def eva_picture(crops_B3HW: Tensor, parsings_BHW: Tensor) -> Tensor:
    """What EVA-CLIP is shown of a crop: the face in grey on white.

    Args:
        crops_B3HW: (B, 3, H, W) float RGB in 0..1.
        parsings_BHW: (B, H, W) integer class codes of the crops.

    Returns:
        (B, 3, H, W) in 0..1.
    """
    grey_B1HW = (crops_B3HW * crops_B3HW.new_tensor(GREY_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)
    white_BHW = torch.isin(parsings_BHW, torch.tensor(WHITE_CLASSES, device=parsings_BHW.device))
    return grey_B1HW.masked_fill(white_BHW[:, None], 1.0).expand_as(crops_B3HW)


class PulidTokens:
    """The image tower and the ID encoder, joined.

    Args:
        tower: EVA02-CLIP-L-14-336.
        encoder: PuLID's ID encoder, on the same device.

    Raises:
        ValueError: the sizes of the two do not fit.
    """

    def __init__(self, tower: EvaClipVision, encoder: IdFormer) -> None:
        given = (len(tower.config.hidden_after), tower.config.width)
        wanted = (encoder.config.scales, encoder.config.feature_dim)
        self.embedding_size = encoder.config.id_dim - tower.config.embedding_dim
        if given != wanted or self.embedding_size < 1:
            raise ValueError(
                f"the image tower gives {given[0]} hidden states of {given[1]} channels and an embedding of "
                f"{tower.config.embedding_dim}; the encoder takes {wanted[0]} of {wanted[1]} and identities "
                f"of {encoder.config.id_dim}"
            )
        self.tower, self.encoder = tower, encoder

    def encode(
        self,
        embeddings_BD: NDArray[np.float32],
        crops: Sequence[Image],
        parsings: Sequence[NDArray[np.uint8]],
    ) -> NDArray[np.float32]:
        """Identity tokens of faces.

        Args:
            embeddings_BD: (B, 512) ArcFace embeddings, not normalised.
            crops: uint8 (512, 512, 3) each, as from `pulid_crop`.
            parsings: uint8 (512, 512) class codes of each crop.

        Returns:
            (B, 32, 2048) float32.

        Raises:
            ValueError: shapes or counts differ, or a value of the embeddings is not finite.
        """
        if embeddings_BD.shape != (len(crops), self.embedding_size) or len(parsings) != len(crops):
            raise ValueError(
                f"expected {self.embedding_size} numbers and one parsing for each of {len(crops)} crops, "
                f"got {embeddings_BD.shape} and {len(parsings)}"
            )
        if not np.isfinite(embeddings_BD).all():
            rows = np.nonzero(~np.isfinite(embeddings_BD).all(axis=1))[0].tolist()
            raise ValueError(f"the embeddings of rows {rows} hold values that are not finite")
        size = (PULID_CROP_SIZE, PULID_CROP_SIZE)
        for row, (crop, parsing) in enumerate(zip(crops, parsings, strict=True)):
            if require_rgb(crop, f"crop {row}").shape[:2] != size or parsing.shape != size:
                raise ValueError(f"row {row}: crop {crop.shape} and parsing {parsing.shape} must be {size}")
        device = self.encoder.latents.device
        config = self.encoder.config
        tokens_BTD = np.empty((len(crops), config.queries, config.output_dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(crops), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                pixels_BHW3 = torch.from_numpy(np.stack(crops[part])).to(device)
                parsings_BHW = torch.from_numpy(np.stack(parsings[part])).to(device)
                embeddings = torch.from_numpy(np.ascontiguousarray(embeddings_BD[part])).to(device)
                crops_B3HW = pixels_BHW3.permute(0, 3, 1, 2).float() / 255
                tokens_BTD[part] = self._encode(embeddings, crops_B3HW, parsings_BHW).float().cpu().numpy()
        return tokens_BTD

    def unconditional(self) -> NDArray[np.float32]:
        """The tokens of "no identity", (32, 2048) float32."""
        with torch.inference_mode():
            return self.encoder.unconditional(self.tower.config.tokens)[0].float().cpu().numpy()

    def _encode(self, embeddings_BD: Tensor, crops_B3HW: Tensor, parsings_BHW: Tensor) -> Tensor:
        pictures = clip_input(eva_picture(crops_B3HW, parsings_BHW), self.tower.config.image_size)
        features = self.tower(pictures)
        image_BE = features.embedding_BE / features.embedding_BE.norm(dim=1, keepdim=True)
        identity_BI = torch.cat([embeddings_BD.to(image_BE.dtype), image_BE], dim=1)
        return self.encoder(identity_BI, features.hidden)
