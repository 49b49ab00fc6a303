"""Named rows of a pinned snapshot, read by place in any order: the columns that are asked for and no others.

Whatever trains reads the lake through here. A batch of random rows is one take, sorted by where the rows lie
and each row once, so that every fragment is visited once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from assets.batches import column_values
from resources.lake.errors import LakeError
from resources.lake.table import ROW_ID, Snapshot

TAKE = 1024
"""Rows of one take: of photographs some hundred megabytes."""


class RowReader:
    """N rows of a snapshot, by place 0 to N - 1 in the order of their row ids here.

    Safe in several threads, and can be sent to other processes: nothing is held but the snapshot, the row ids
    and where they lie, 16 bytes a row.

    Args:
        snapshot: the table at its pinned version.
        row_ids: (N,) the rows.

    Raises:
        LakeError: with the first read, where a row is not in the snapshot.
    """

    def __init__(self, snapshot: Snapshot, row_ids: np.ndarray) -> None:
        self.snapshot, self.row_ids = snapshot, row_ids

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.row_ids)

    @cached_property
    def _stored_N(self) -> np.ndarray:
        """The place of every row among all live rows of the table in storage order."""
        ids = self.snapshot.scan([])[ROW_ID].to_numpy().astype(np.int64)
        order = np.argsort(ids)
        found = np.minimum(np.searchsorted(ids, self.row_ids, sorter=order), max(len(ids) - 1, 0))
        lost = np.flatnonzero(ids[order[found]] != self.row_ids) if len(ids) else self.row_ids
        if len(lost):
            raise LakeError(
                f"{len(lost)} rows are gone from {self.snapshot.table.uri} at version {self.snapshot.version}"
            )
        return order[found]

    def read(self, places_B: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Columns of the rows at these places, in that order; a row may be named twice."""
        wanted, back = np.unique(self._stored_N[places_B], return_inverse=True)
        parts = [
            self.snapshot.take(wanted[start : start + TAKE], columns)
            for start in range(0, max(len(wanted), 1), TAKE)
        ]
        read = pa.concat_tables(parts)
        return read if np.array_equal(back, np.arange(len(wanted))) else read.take(pa.array(back))

    def filled(self, column: str, read: pa.ChunkedArray, places_B: np.ndarray) -> list[Any]:
        """Values of a column that was read at these places. Raises LakeError where one is empty."""
        values = column_values(read)
        empty = [place for place, value in zip(places_B, values, strict=True) if value is None]
        if empty:
            raise LakeError(
                f"{column} of {self.snapshot.table.uri} is empty in row {int(self.row_ids[empty[0]])} at "
                f"version {self.snapshot.version}, though it was released; run `orchard run release --force`"
            )
        return values

    def rows(self, places_B: np.ndarray, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The same as one dict a row, fixed-size lists as numpy arrays, none of them empty."""
        read = self.read(places_B, columns)
        values = {name: self.filled(name, read[name], places_B) for name in columns}
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
