"""What the denoiser learns from: pictures of faces, whose they are, and where the face is.

As for the swap models, drawing and reading are two things: `draw` says by whole numbers which rows make a
step's batch, the same in every process; `read` brings the rows that one process is to work on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.swap.data import Choices, OtherPhotos, Rows, read_rows

IdentitySource = Literal["image", "other_photo"]


@dataclass(frozen=True)
class DenoiserBatch:
    """One batch: pictures uint8 (B, H, W, 3) RGB, and who they show.

    `identity_BD` float32 of length 1: what conditions, and what the identity term compares with. `points_B52`
    are the face's five points in pixels of the pictures, for a face network that is shown an aligned crop.
    """

    images_BHW3: Tensor
    identity_BD: Tensor
    points_B52: Tensor | None = None


class DenoiserData(Protocol):
    """A source of batches that depends on the given generator alone, so that any step can be repeated."""

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Draw `batch_size` rows with replacement, without reading any."""
        ...

    def read(self, choices_BK: Choices) -> DenoiserBatch:
        """Return the drawn rows; called from a thread of its own, one batch ahead."""
        ...


def read_images(rows: Rows, wanted_B: NDArray[np.int64]) -> Tensor:
    """Return the named pictures, uint8.

    Raises:
        ValueError: rows of another type or shape.
    """
    images = np.ascontiguousarray(rows[wanted_B])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 pictures (B, H, W, 3), got {images.dtype} {images.shape}")
    return torch.from_numpy(images)


class PhotoData:
    """Photographs with an embedding each: rows of arrays, or of the lake through readers of its columns.

    Args:
        images_NHW3: uint8 RGB at the denoiser's size.
        identity_ND: embedding of each, length 1.
        people: (N,) whose photograph it is; needed for another photograph's identity.
        points_N52: five points of each, in its pixels.
        identity_source: the image's own embedding, or another photograph's of its person.

    Raises:
        ValueError: lengths differ, or there is no picture with the identity that is asked for.
    """

    def __init__(
        self,
        images_NHW3: Rows,
        identity_ND: Rows,
        people: NDArray | None = None,
        *,
        points_N52: Rows | None = None,
        identity_source: IdentitySource = "image",
    ) -> None:
        given = (images_NHW3, identity_ND, people, points_N52)
        lengths = {len(rows) for rows in given if rows is not None}
        if len(lengths) != 1:
            raise ValueError(f"pictures, identities, people and points differ in length: {sorted(lengths)}")
        self._images, self._identities, self._points = images_NHW3, identity_ND, points_N52
        self._others = None
        self._usable = np.arange(len(images_NHW3))
        if identity_source == "other_photo":
            if people is None:
                raise ValueError(
                    "the identity of another photograph needs to know whose photographs these are"
                )
            self._others = OtherPhotos(people)
            self._usable = np.flatnonzero(self._others.has_other())
        if not len(self._usable):
            raise ValueError(f"no picture has an identity by identity_source {identity_source!r}")

    def __len__(self) -> int:
        """Return how many pictures can be drawn."""
        return len(self._usable)

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (picture, photograph the identity is of)."""
        pictures = rng.choice(self._usable, size=batch_size)
        sources = pictures if self._others is None else self._others.draw(rng, pictures)
        return np.stack([pictures, sources], axis=1)

    def read(self, choices_BK: Choices) -> DenoiserBatch:
        """Return the pictures with their points, and the identities."""
        pictures, sources = choices_BK.T
        return DenoiserBatch(
            read_images(self._images, pictures),
            read_rows(self._identities, sources),
            None if self._points is None else read_rows(self._points, pictures),
        )
