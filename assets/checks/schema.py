"""`schema_as_declared`: the columns in the lake are those that the stage declares."""

from __future__ import annotations

import pyarrow as pa

from assets.checks.findings import Finding
from assets.checks.rows import StageShard


def schema_as_declared(shard: StageShard) -> Finding:
    """Compare names, types and nullability of a stage's column group with the table's schema.

    The first stage of a table answers for the rows' own columns too. Reads no rows.
    """
    actual = shard.snapshot.dataset.schema
    wrong = [text for field in shard.declared if (text := _difference(actual, field))]
    figures = {"columns": len(shard.declared), "table": shard.table, "version": shard.snapshot.version}
    if not wrong:
        return Finding(True, f"{len(shard.declared)} columns of {shard.table} are as declared", figures)
    return Finding(
        passed=False,
        message=f"{len(wrong)} columns of {shard.table} are not as {shard.name} declares them: "
        f"{'; '.join(wrong)}. Use the profile that made this lake, or a lake of its own for each profile "
        "(--lake); where a column is gone, `orchard plan` adds it again, empty.",
        metadata={**figures, "wrong": wrong},
    )


def _difference(actual: pa.Schema, declared: pa.Field) -> str:
    """How a column differs from its declaration; empty when it does not."""
    index = actual.get_field_index(declared.name)
    if index < 0:
        return f"{declared.name} is missing"
    found = actual.field(index)
    if not found.type.equals(declared.type):
        return f"{declared.name} is {found.type}, declared {declared.type}"
    if found.nullable != declared.nullable:
        return f"{declared.name} may {'' if found.nullable else 'not '}be null, declared the other way"
    return ""
