"""The columns every table must have, and how a lake of an older Orchard gets those it lacks.

A column that is missing and has an obvious value for old rows is added. Anything else is refused with one
sentence, before a stage stumbles over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lance
import pyarrow as pa

from resources.lake import schema
from resources.lake.errors import LakeError, clear_storage_errors
from resources.lake.recipes import base_name

if TYPE_CHECKING:
    from resources.lake.lake import Lake

BASE_SCHEMAS: dict[str, pa.Schema] = {
    "faces": schema.FACES_SCHEMA,
    "source_roots": schema.SOURCE_ROOTS_SCHEMA,
    "swap_pairs": schema.SWAP_PAIRS_SCHEMA,
    "triplets": schema.TRIPLETS_SCHEMA,
    "swaps": schema.SWAPS_SCHEMA,
    "diffface_swaps": schema.DIFFFACE_SWAPS_SCHEMA,
    "artifacts": schema.ARTIFACTS_SCHEMA,
    "evaluations": schema.EVALUATIONS_SCHEMA,
    "recipes": schema.RECIPES_SCHEMA,
}
"""Tables that every lake has, with the columns that are no stage's."""


def base_schema(table: str) -> pa.Schema | None:
    """Columns of a table that are no stage's, whatever its recipe; None where a lake need not have it."""
    return BASE_SCHEMAS.get(base_name(table))


OLD_ROWS = {
    "faces.consent": "'unknown'",
    "artifacts.recipe": "'default'",
    "artifacts.metadata": "'{}'",
    "artifacts.code_version": "''",
    "swap_pairs.use": "'evaluation'",
    "source_roots.shard_size": "CAST(4096 AS INT)",
}
"""What rows of an older lake hold in a column that may not be null, as SQL."""


def bring_up_to_date(lake: Lake) -> list[str]:
    """Make missing tables and columns. Returns what was made; nothing for a lake of today.

    Raises LakeError naming the column and the remedy when the old rows cannot be completed.
    """
    made: list[str] = []
    names = dict.fromkeys([*BASE_SCHEMAS, *lake.table_names()])
    for name in names:
        table, wanted = lake.table(name), base_schema(name)
        if wanted is None:
            continue
        if not table.exists():
            with clear_storage_errors(table.uri):
                table.create(wanted)
            made.append(name)
            continue
        dataset = lance.dataset(table.uri, storage_options=dict(table.storage_options) or None)
        missing = [field for field in wanted if _is_missing(dataset, f"{name}.{field.name}", field)]
        if not missing:
            continue
        with clear_storage_errors(table.uri):
            _add(dataset, name, missing)
        made += [f"{name}.{field.name}" for field in missing]
    return made


def _is_missing(dataset: lance.LanceDataset, name: str, field: pa.Field) -> bool:
    index = dataset.schema.get_field_index(field.name)
    if index >= 0:
        stored = dataset.schema.field(index).type
        if not stored.equals(field.type):
            raise LakeError(
                f"{name} of {dataset.uri} is {stored}, this Orchard writes {field.type}: the lake is of "
                "another version. Ingest the photographs into a new lake (--lake), or use the version "
                "that made it"
            )
        return False
    if not field.nullable and name not in OLD_ROWS and dataset.count_rows():
        raise LakeError(
            f"{dataset.uri} has no column {field.name}, and what old rows should hold there cannot be known: "
            "the lake is of an older version. Ingest the photographs into a new lake (--lake)"
        )
    return True


def _add(dataset: lance.LanceDataset, table: str, fields: list[pa.Field]) -> None:
    known = {field.name: OLD_ROWS[f"{table}.{field.name}"] for field in fields if not field.nullable}
    if known:
        dataset.add_columns(known)
    empty = [field for field in fields if field.nullable]
    if empty:
        dataset.add_columns(pa.schema(empty))
