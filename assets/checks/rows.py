"""What a check looks at: the rows of one stage in one shard, at one pinned version, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from assets.checks.limits import CheckLimits
from assets.stage import RowStage, StageGraph
from resources.lake.arrow import one_piece
from resources.lake.schema import FACES_SCHEMA, FACES_STAGE, state_column
from resources.lake.table import Snapshot
from resources.lake.upgrade import BASE_SCHEMAS

BATCH_ROWS = 4096
BATCH_BYTES = 32 * 1024 * 1024
"""Rows read together are as many as fit into so many bytes, and never more than `BATCH_ROWS`."""

UNKNOWN_WIDTH = 512 * 1024
"""Bytes assumed for a value without a declared size, such as a picture."""


@dataclass(frozen=True)
class StageShard:
    """Rows of one stage (None: the photographs themselves) in one shard (None: in the whole table)."""

    graph: StageGraph
    stage: RowStage | None
    shard: str | None
    snapshot: Snapshot

    @classmethod
    def of(cls, graph: StageGraph, name: str, shard: str | None, snapshot: Snapshot) -> StageShard:
        """Rows of a row stage, or of `faces`, in a snapshot of its table."""
        stage = None if name == FACES_STAGE else graph[name]
        if stage is not None and not isinstance(stage, RowStage):
            raise TypeError(f"{name} is not a row stage")
        return cls(graph, stage, shard, snapshot)

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name if self.stage else FACES_STAGE

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.stage.table if self.stage else FACES_STAGE

    @property
    def key(self) -> str:
        """Key column of the table."""
        return self.snapshot.table.key

    @property
    def limits(self) -> CheckLimits:
        """Limits of the profile."""
        return self.graph.limits

    @property
    def state(self) -> str:
        """Name of the stage's state column."""
        return state_column(self.name)

    @property
    def declared(self) -> list[pa.Field]:
        """Columns that the stage declares; for the first stage of a table also the rows' own."""
        if self.stage is None:
            return list(FACES_SCHEMA)
        first = self.graph.row_stages(self.table)[0].name == self.name and self.table in BASE_SCHEMAS
        own = list(BASE_SCHEMAS[self.table]) if first and self.table != FACES_STAGE else []
        return [*own, *self.stage.group_fields]

    def batches(
        self, columns: Sequence[str], *, everywhere: bool = False, row_bytes: int = 0
    ) -> Iterator[dict[str, pa.Array]]:
        """Columns by name, some rows at a time; `everywhere` reads all shards.

        `row_bytes` is the size of one row and bounds how many are read together.
        """
        chosen, fragments = None, None
        if self.shard is not None and not everywhere:
            fragments = self.snapshot.fragments_of(self.shard)
            chosen = "shard = '" + self.shard.replace("'", "''") + "'"
        rows = BATCH_ROWS if not row_bytes else max(16, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
        scanner = self.snapshot.dataset.scanner(
            columns=list(columns),
            filter=chosen,
            fragments=fragments,
            batch_size=rows,
            scan_in_order=True,
            # of a shard's neighbours in a table not even the values are read
            late_materialization=chosen is not None,
        )
        for batch in scanner.to_batches():
            yield {name: one_piece(batch.column(name)) for name in columns}


def value_bytes(data_type: pa.DataType) -> int:
    """Size of one value of a column in bytes; a guess for values without a declared size."""
    if pa.types.is_fixed_size_list(data_type):
        return data_type.list_size * value_bytes(data_type.value_type)
    if pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type):
        return UNKNOWN_WIDTH
    return data_type.bit_width // 8 if pa.types.is_primitive(data_type) else 64
