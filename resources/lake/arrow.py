"""Arrow's compute functions, typed as what they are (made at import time, unknown to a type checker)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

compute: Any = pyarrow.compute


def one_piece(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array; copied only when it is in several pieces (`combine_chunks` always copies)."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
