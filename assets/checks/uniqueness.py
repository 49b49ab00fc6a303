"""`ids_unique`: a key names one row of the whole table, in whatever shard."""

from __future__ import annotations

import pyarrow as pa

from assets.checks.findings import Finding, first_keys, named
from assets.checks.rows import StageShard
from resources.lake.arrow import compute as pc


def ids_unique(shard: StageShard) -> Finding:
    """Look for keys that occur twice, are empty or missing, in all shards of the table."""
    keys = pa.chunked_array(
        [batch[shard.key] for batch in shard.batches([shard.key], everywhere=True)], pa.string()
    )
    empty = len(keys) - int(pc.sum(pc.greater(pc.utf8_length(keys), 0), min_count=0).as_py() or 0)
    repeated: list[str] = []
    if pc.count_distinct(keys, mode="all").as_py() != len(keys):
        counted = pc.value_counts(keys.drop_null())
        twice = pc.greater(counted.field("counts"), 1)
        repeated = sorted(counted.field("values").filter(twice).to_pylist())
    figures = {"rows_of_table": len(keys), "repeated": len(repeated), "empty": empty}
    if not repeated and not empty:
        return Finding(True, f"{len(keys)} rows, each with a {shard.key} of its own", figures)
    told = [f"{len(repeated)} ids name more than one row: {named(repeated)}"] if repeated else []
    told += [f"{empty} rows have no {shard.key}"] if empty else []
    return Finding(
        passed=False,
        message=f"{'; '.join(told)}. Rows below may have been made from either. {_remedy(shard)}",
        metadata={**figures, "repeated_ids": first_keys(repeated)},
    )


def _remedy(shard: StageShard) -> str:
    if shard.table == "faces":
        return (
            "Remove them with `orchard forget --image ID` and ingest their folder again with "
            "`orchard ingest PATH --un-forget`."
        )
    return "`orchard run release --force` makes the list of pairs anew."
