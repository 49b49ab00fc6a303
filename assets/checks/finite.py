"""`values_finite`: rows that are ok hold every value they must and no NaN or infinity, other rows none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from assets.checks.findings import Finding, first_keys, named
from assets.checks.rows import StageShard, value_bytes
from resources.lake.arrow import compute as pc
from resources.lake.schema import Column, Status


def values_finite(shard: StageShard) -> Finding:
    """Look at all outputs of a row stage.

    An ok row without a value is wrong unless the column is declared optional, and so is a value in a row that
    is not ok: nothing says how it was made.

    Raises TypeError for the photographs themselves, which have no outputs.
    """
    if shard.stage is None:
        raise TypeError("the photographs are no outputs of a stage")
    outputs = shard.stage.outputs
    status_part = f"{shard.state}.status"
    size = sum(value_bytes(column.type) for column in outputs)
    wrong: Counter[str] = Counter()
    rows: dict[str, None] = {}
    checked = 0
    for batch in shard.batches(
        [shard.key, status_part, *(column.name for column in outputs)], row_bytes=size
    ):
        ok = np.asarray(pc.fill_null(pc.equal(batch[status_part], Status.OK.value), False)).astype(bool)
        checked += int(ok.sum())
        for column in outputs:
            for what, here in _faults(batch[column.name], column, ok).items():
                if here.any():
                    wrong[f"{column.name} {what}"] += int(here.sum())
                    rows |= dict.fromkeys(batch[shard.key].filter(pa.array(here)).to_pylist())
    figures = {"ok_rows": checked, "columns": len(outputs), "wrong": dict(sorted(wrong.items()))}
    if not rows:
        return Finding(True, f"all values of {checked} ok rows are there and finite", figures)
    causes = ", ".join(f"{what} in {count} rows" for what, count in wrong.most_common())
    return Finding(
        passed=False,
        message=f"{causes}: {named(list(rows))}. No stage writes such a row, so the lake was damaged or "
        f"changed from outside; `orchard repair` looks for damage, `orchard run {shard.name} --force` "
        "computes the rows anew.",
        metadata={**figures, "rows": first_keys(rows)},
    )


def _faults(values: pa.Array, column: Column, ok: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of a batch by what is wrong with them, as bool arrays of the batch's length."""
    there = np.asarray(pc.is_valid(values)).astype(bool)
    faults = {"is there though the row is not ok": ~ok & there}
    if not column.optional:
        faults["is missing"] = ok & ~there
    if column.quantum is not None:
        faults["is not finite"] = ok & there & ~_all_finite(values)
    return faults


def _all_finite(values: pa.Array) -> np.ndarray:
    """Whether every number of a row is finite; a null within a list is not."""
    if pa.types.is_fixed_size_list(values.type):
        width = values.type.list_size
        numbers = values.values.slice(values.offset * width, len(values) * width)
        return np.isfinite(numbers.to_numpy(zero_copy_only=False)).reshape(len(values), width).all(axis=1)
    return np.isfinite(values.to_numpy(zero_copy_only=False))
