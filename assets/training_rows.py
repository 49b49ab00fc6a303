"""Released rows as training data: what teacher and student learn from, read at the release's pinned version.

Latents stay in the lake and are read by row when a batch needs them, sorted, one batch ahead of the training.
A row of FLUX at 512 px is 2 x 128 KiB of latents and 128 KiB of identity tokens as float16: 1.5 million of
them are 590 GB, of which a training of 16 rows a step holds some 12 MB at a time (two batches). Kept in
memory are ids, people and row ids, some 200 bytes a row, and all of a set that is small anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets.condition import OWN_CONDITION, TARGET_COLUMN
from assets.release import released_rows
from assets.row_reader import RowReader
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.table import Snapshot

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from models.swap.data import Rows

IN_MEMORY_BYTES = 512 * 1024 * 1024
"""A column that takes no more is read once and kept."""


class LakeRows:
    """One fixed-size column of the named rows of a pinned snapshot, read when asked for.

    `lake_rows[array of N places]` gives (N, *shape), in the order asked, a place twice if it is asked twice.
    Safe in several threads and processes: nothing is held but the snapshot.
    """

    def __init__(self, reader: RowReader, column: str, shape: Sequence[int]) -> None:
        self._reader, self._column, self._shape = reader, column, tuple(shape)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._reader)

    def __getitem__(self, places_B: np.ndarray) -> np.ndarray:
        """Read rows. Raises LakeError when one is gone or empty at the pinned version."""
        read = self._reader.read(places_B, [self._column])[self._column]
        return np.stack(self._reader.filled(self._column, read, places_B)).reshape(
            len(places_B), *self._shape
        )


def rows_of(reader: RowReader, column: str, shape: Sequence[int], in_memory_bytes: int | None = None) -> Rows:
    """A column of the reader's rows: an array where it is small, else a view of the lake.

    `shape` is that of one row; -1 in it is what the column's length gives. `in_memory_bytes` of None is
    `IN_MEMORY_BYTES`.
    """
    rows = LakeRows(reader, column, shape)
    field = reader.snapshot.dataset.schema.field(column).type
    if len(reader) * field.list_size * field.value_type.bit_width // 8 <= (
        IN_MEMORY_BYTES if in_memory_bytes is None else in_memory_bytes
    ):
        return rows[np.arange(len(reader))]
    return rows


@dataclass(frozen=True)
class TrainingRows:
    """N released photographs by row: latents (L, C) float16, embeddings (D,), and who they are of.

    `reader` reads any other column of them. `reference_ND` is None where the lake has no such column.
    """

    reader: RowReader
    image_ids: list[str]
    people: np.ndarray
    target_NLC: Rows
    condition_NLC: Rows
    identity_ND: Rows
    reference_ND: Rows | None = None


def training_rows(
    lake: Lake,
    release: Artifact,
    tokens: int,
    condition: str = OWN_CONDITION.column,
    in_memory_bytes: int | None = None,
) -> TrainingRows:
    """The training rows of a release at the version it pinned.

    `tokens` is L, the model's; `condition` is the column of the condition image's latents.
    """
    image_ids, people = released_rows(lake, release, "train")
    snapshot = lake.faces.snapshot(int(release.metadata["version"]))
    reader = RowReader(snapshot, row_ids_of(snapshot, image_ids))
    latents = {
        name: rows_of(reader, name, (tokens, -1), in_memory_bytes) for name in (TARGET_COLUMN, condition)
    }
    reference = None
    if "identity_reference" in snapshot.columns:
        reference = rows_of(reader, "identity_reference", (-1,), in_memory_bytes)
    return TrainingRows(
        reader=reader,
        image_ids=image_ids,
        people=people,
        target_NLC=latents[TARGET_COLUMN],
        condition_NLC=latents[condition],
        identity_ND=rows_of(reader, "identity_embedding", (-1,), in_memory_bytes),
        reference_ND=reference,
    )


def row_ids_of(snapshot: Snapshot, keys: Sequence[str]) -> np.ndarray:
    """Row ids of the rows with these keys. Raises LakeError when one is not in the snapshot."""
    key = snapshot.table.key
    scanned = snapshot.scan([key])
    handles = dict(zip(scanned[key].to_pylist(), scanned["_rowid"].to_pylist(), strict=True))
    lost = [name for name in keys if name not in handles]
    if lost:
        raise LakeError(f"{lost[0]} is not in {snapshot.table.uri} at version {snapshot.version}")
    return np.array([handles[name] for name in keys], np.int64)


def need_artifact(lake: Lake, stage: str) -> Artifact:
    """The current artifact of a stage. Raises LakeError when it was never made."""
    artifact = lake.current_artifact(stage)
    if artifact is None:
        raise LakeError(f"there is no {stage} in {lake.uri} yet; `orchard run` makes it")
    return artifact
