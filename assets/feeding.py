"""Pixels for training, out of the lake: released photographs, and condition images drawn as they are read.

    rows = released_pixels(lake, size=512, condition=OWN_CONDITION, columns=("identity_embedding",))
    order = ShuffledEpochs(len(rows), batch_size=64, seed=0)
    for fed in feed(rows, order, range(done + 1, steps + 1), rank=rank, ranks=ranks, readers=readers):
        ...

`assets.feed_order` says which rows come when. Teacher and student learn from latents, which
`assets.training_rows` reads by the same reader; this is for what wants pixels, such as DiffFace's denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.condition import CONDITION_INPUTS, ConditionNames, row_frame
from assets.release import released_rows
from assets.row_reader import RowReader
from assets.training_rows import need_artifact, row_ids_of
from models.faces.condition import ConditionRecipe
from models.faces.frame import FaceFrame, frame_condition, square_picture
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.lake.recipes import of_recipe
from resources.photos.reasons import RowError
from resources.photos.recycling import recycled
from resources.photos.stored import decode_stored

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from torch import Tensor

PHOTOGRAPH = ("image", "image_sha256", "orientation")
ANNOTATION = tuple(column for item in CONDITION_INPUTS for column in item.columns if column != "image")
"""What a condition image is drawn from, besides the photograph."""


@dataclass(frozen=True)
class PixelBatch:
    """Rows of one step, uint8 RGB, and what else was asked for.

    `conditions_BSS3` are the condition images, where they were asked for. `columns` has the other columns:
    tensors (B, ...) of fixed-size lists and numbers, lists of anything else.
    """

    images_BSS3: Tensor
    conditions_BSS3: Tensor | None
    columns: Mapping[str, Any]


class PixelRows:
    """N photographs at one size, with condition images and columns, read by place.

    Args:
        reader: the rows.
        size: side of the pictures, px.
        condition: column that says how each condition image is drawn; None draws none.
        columns: what else is read.
    """

    def __init__(
        self, reader: RowReader, size: int, condition: str | None = None, columns: Sequence[str] = ()
    ) -> None:
        self.reader, self.size, self.condition, self.columns = reader, size, condition, tuple(columns)

    def __len__(self) -> int:
        """How many photographs there are."""
        return len(self.reader)

    @property
    def lake_columns(self) -> tuple[str, ...]:
        """The columns that are read, and no others."""
        drawn = (self.condition, *ANNOTATION) if self.condition else ()
        return tuple(dict.fromkeys((*PHOTOGRAPH, *drawn, *self.columns)))

    def __getitem__(self, places_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The photographs alone, uint8 (B, S, S, 3): a column of pictures, as latents are one of numbers."""
        alone = PixelRows(self.reader, self.size)
        return alone.read(places_B).images_BSS3.numpy()

    def frames(self, places_B: NDArray[np.int64]) -> list[FaceFrame]:
        """Photographs with masks and points at the size."""
        rows = self._rows(places_B, (*PHOTOGRAPH, *ANNOTATION))
        return [row_frame(row | {"image": self._decoded(row)}, self.size) for row in rows]

    def read(self, places_B: NDArray[np.int64]) -> PixelBatch:
        """Photographs, condition images and columns. Raises as `read_together`."""
        return self.read_together([places_B])[0]

    def read_together(self, steps: Sequence[NDArray[np.int64]]) -> list[PixelBatch]:
        """Batches of several steps, of one sorted take.

        Raises:
            LakeError: a row is gone or empty at the pinned version, or its bytes are not what was ingested.
        """
        rows = iter(self._rows(np.concatenate(steps), self.lake_columns))
        return [self._batch(list(islice(rows, len(places)))) for places in steps]

    def _batch(self, rows: list[dict[str, Any]]) -> PixelBatch:
        import torch

        shape = (len(rows), self.size, self.size, 3)
        images = torch.from_numpy(recycled(*shape))
        conditions = None if self.condition is None else torch.from_numpy(recycled(*shape))
        for place, row in enumerate(rows):
            here = images[place].numpy()
            pixels = self._decoded(row, here)
            if self.condition is not None and conditions is not None:
                frame = row_frame(row | {"image": pixels}, self.size)
                pixels = frame.image
                conditions[place] = torch.from_numpy(frame_condition(frame, _recipe(row[self.condition])))
            elif pixels.shape[:2] != shape[1:3]:
                pixels = square_picture(pixels, self.size)
            if pixels is not here:  # decoded elsewhere, or changed
                here[...] = pixels
        columns = {name: _stacked([row[name] for row in rows]) for name in self.columns}
        return PixelBatch(images, conditions, columns)

    def _rows(self, places_B: NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = self.reader.rows(places_B, columns)
        for place, row in zip(places_B, rows, strict=True):
            row["place"] = int(place)
        return rows

    def _decoded(self, row: Mapping[str, Any], into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        try:
            return decode_stored(row["image"], row["image_sha256"], row["orientation"], into)
        except RowError as error:
            reader = self.reader
            name = reader.read(np.array([row["place"]]), [reader.snapshot.table.key]).to_pylist()[0]
            raise LakeError(
                f"the photograph {name[reader.snapshot.table.key]} of {reader.snapshot.table.uri} cannot be "
                f"decoded any more ({error}); `orchard repair` says what else is damaged"
            ) from error


@lru_cache
def _recipe(text: str) -> ConditionRecipe:
    """The recipe in a column; few differ."""
    return ConditionRecipe.model_validate_json(text)


def _stacked(values: list[Any]) -> Any:
    """One tensor of arrays or numbers; anything else stays a list."""
    import torch

    if isinstance(values[0], np.ndarray | int | float):
        return torch.from_numpy(np.stack([np.asarray(value) for value in values]))
    return values


def released_pixels(
    lake: Lake,
    *,
    size: int,
    recipe: str | None = None,
    condition: ConditionNames | None = None,
    columns: Sequence[str] = (),
) -> PixelRows:
    """The photographs that a recipe's release trains on, at the version it pinned.

    Args:
        lake: where they are.
        size: side of the pictures, px.
        recipe: whose release; None is the default one's.
        condition: which condition image is drawn with them; None draws none. `OWN_CONDITION` is the default.
        columns: what else is read.

    Raises:
        LakeError: there is no such release, or it has no such column.
    """
    release = need_artifact(lake, of_recipe("release", recipe))
    image_ids, _ = released_rows(lake, release, "train")
    snapshot = lake.faces.snapshot(int(release.metadata["version"]))
    rows = PixelRows(
        RowReader(snapshot, row_ids_of(snapshot, image_ids)),
        size,
        None if condition is None else condition.recipe,
        columns,
    )
    missing = sorted(set(rows.lake_columns) - snapshot.columns)
    if missing:
        raise LakeError(
            f"{', '.join(missing)} is not in {lake.uri} at the release's version; run the stages that make "
            "it and `orchard run release`"
        )
    return rows
