"""Occlusion augmentation: one occluder on ground truth and condition alike, drawn anew at every step.

APPLE's code has none; the first version of the paper names it as an aid to robustness, without its settings.
Here a share of a batch's rows gets a procedural occluder over the face. The teacher's condition is rendered
anew with the occluder cut out of the visible face, so that it stays sharp there as real hands do; the
student's swapped picture gets the very same pixels as the original. Both are encoded when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.faces.condition import ConditionRecipe
from models.faces.frame import FaceFrame, frame_condition
from models.faces.images import Image
from models.faces.occluders import Placement, Rgba, body_of, draw_occluder, paste
from models.swap.codec import LatentCodec
from models.swap.data import Choices, TrainingBatch, TrainingData

EXTENT = (0.35, 0.8)
"""Least and greatest width of an occluder, in widths of the face."""

UNOCCLUDED = -1
"""Stands in a drawn row where the occluder's seed would."""


@dataclass(frozen=True)
class Pictures:
    """Ground truth and condition of one row, uint8 RGB (S, S, 3)."""

    target: Image
    condition: Image


OccludedPictures = Callable[[int, np.random.Generator], Pictures]
"""Renders one row (its first number as the data drew it) with an occluder that the generator decides."""


def face_occluder(frame: FaceFrame, rng: np.random.Generator) -> Rgba:
    """An occluder over the face of a frame: its middle on a pixel of the face, its far end anywhere."""
    size = len(frame.image)
    rows, columns = np.nonzero(frame.face_mask)
    low, high = frame.landmarks_68.min(axis=0), frame.landmarks_68.max(axis=0)
    pick, extent = rng.random(), rng.uniform(*EXTENT)
    # a bias downwards: what hides faces comes mostly from below
    angle = float(rng.normal(0, 1.1))
    if len(rows):
        chosen = int(pick * len(rows))
        x, y = float(columns[chosen]) + 0.5, float(rows[chosen]) + 0.5
    else:
        x, y = (float(value) for value in (low + high) / 2)
    width = float(np.clip(high[0] - low[0], size / 16, size))
    return draw_occluder(rng, size, Placement(x / size, y / size, extent * width / size, angle))


def occlude_frame(frame: FaceFrame, occluder: Rgba) -> FaceFrame:
    """The frame with the occluder in front: its pixels are no visible face any more. The points stay."""
    free = ~body_of(occluder)
    return replace(
        frame,
        image=paste(frame.image, occluder),
        face_mask=frame.face_mask & free,
        glasses_mask=frame.glasses_mask & free,
    )


class TeacherPictures:
    """Photo and condition image of a target, both with the occluder.

    Args:
        frames: a target row's photo at the model's size, with masks and points.
        recipe: the condition image, as the stage `condition` has it.
    """

    def __init__(self, frames: Callable[[int], FaceFrame], recipe: ConditionRecipe) -> None:
        self._frames, self._recipe = frames, recipe

    def __call__(self, row: int, rng: np.random.Generator) -> Pictures:
        """Render one row."""
        frame = self._frames(row)
        occluded = occlude_frame(frame, face_occluder(frame, rng))
        return Pictures(occluded.image, frame_condition(occluded, self._recipe))


class StudentPictures:
    """Original and swapped picture of a triplet, both with the same occluder.

    Args:
        frames: a triplet's target photo at the model's size.
        swapped: the triplet's swapped picture, uint8 RGB (S, S, 3).
    """

    def __init__(self, frames: Callable[[int], FaceFrame], swapped: Callable[[int], Image]) -> None:
        self._frames, self._swapped = frames, swapped

    def __call__(self, row: int, rng: np.random.Generator) -> Pictures:
        """Render one row."""
        frame = self._frames(row)
        occluder = face_occluder(frame, rng)
        return Pictures(paste(frame.image, occluder), paste(self._swapped(row), occluder))


class OccludedData:
    """Training data of which a share of rows is occluded; the rows are those of the data without it.

    Everything but the latents of occluded rows is as the data gives it. With probability 0 nothing is drawn
    or rendered.

    Args:
        data: what is wrapped; the first number of its choices is the row that `pictures` gets.
        probability: share of rows that get an occluder.
        pictures: renders an occluded row.
        codec: encodes it.

    Raises:
        ValueError: a probability outside 0..1.
    """

    def __init__(
        self, data: TrainingData, probability: float, pictures: OccludedPictures, codec: LatentCodec
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability} is outside 0..1")
        self._data, self._probability, self._pictures, self._codec = data, probability, pictures, codec

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """The data's own choices, and behind them the seed of each row's occluder or `UNOCCLUDED`."""
        choices_BK = self._data.draw(rng, batch_size)
        if self._probability == 0:
            return choices_BK
        hit_B = rng.random(batch_size) < self._probability
        seeds_B = rng.integers(2**62, size=batch_size, dtype=np.int64)
        return np.column_stack([choices_BK, np.where(hit_B, seeds_B, UNOCCLUDED)])

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """The data's batch with the latents of occluded rows replaced.

        Raises:
            ValueError: pictures of another size than the latents are of.
        """
        if self._probability == 0:
            return self._data.read(choices_BK)
        batch = self._data.read(choices_BK[:, :-1])
        rows = np.flatnonzero(choices_BK[:, -1] != UNOCCLUDED)
        if not len(rows):
            return batch
        drawn = [
            self._pictures(int(choices_BK[row, 0]), np.random.default_rng(choices_BK[row, -1]))
            for row in rows
        ]
        targets = np.stack([pictures.target for pictures in drawn])
        conditions = np.stack([pictures.condition for pictures in drawn])
        places = torch.from_numpy(rows)
        return replace(
            batch,
            target_latents_BLC=self._replaced(batch.target_latents_BLC, places, targets),
            condition_latents_BLC=self._replaced(batch.condition_latents_BLC, places, conditions),
        )

    def _replaced(self, latents_BLC: torch.Tensor, places: torch.Tensor, images: Image) -> torch.Tensor:
        encoded = self._codec.encode(images).to(latents_BLC)
        if encoded.shape[1:] != latents_BLC.shape[1:]:
            raise ValueError(
                f"occluded pictures of {images.shape[1]} px give latents {tuple(encoded.shape[1:])}, "
                f"the data has {tuple(latents_BLC.shape[1:])}"
            )
        return latents_BLC.index_copy(0, places, encoded)
