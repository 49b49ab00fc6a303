"""The only code that commits a column group.

Lance's DataReplacement validates nothing: a file of the wrong length, of the wrong type, or that is not
there at all is accepted and fails on the next read. So everything is checked here first. A kill at any
point leaves either the old group or the new one: the data file is invisible until the one atomic commit.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import lance
import pyarrow as pa
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from resources.lake.errors import CommitConflict, CommitRefused
from resources.lake.failpoints import crash_point
from resources.lake.schema import LAKE_FORMAT
from resources.lake.table import Snapshot

CONFLICT_MARKERS = ("conflict", "retryable", "preempted")


def commit_group(
    snapshot: Snapshot, fragment_id: int, group: pa.Table, properties: dict[str, str] | None = None
) -> None:
    """Replace one column group of one fragment, atomically.

    `group` has one row per *physical* row of the fragment (deleted rows hold nulls) and its columns
    must exist in the table with the same types. `snapshot` is the version its inputs were read from.

    Raises CommitRefused when the group does not fit, CommitConflict when another writer came first.
    """
    _check_group(snapshot, fragment_id, group)
    name = f"{uuid.uuid4().hex}.lance"
    options = dict(snapshot.table.storage_options) or None
    path = f"{snapshot.table.uri}/data/{name}"
    with LanceFileWriter(path, schema=group.schema, version=LAKE_FORMAT, storage_options=options) as writer:
        for batch in group.to_batches():
            writer.write_batch(batch)
    crash_point("after_data_file")
    leaf_ids = _leaf_ids(snapshot, group.schema.names)
    major, minor = (int(part) for part in LAKE_FORMAT.split("."))
    data_file = DataFile(name, leaf_ids, list(range(len(leaf_ids))), major, minor, None)
    transaction = lance.Transaction(
        read_version=snapshot.version,
        operation=LanceOperation.DataReplacement(
            [LanceOperation.DataReplacementGroup(fragment_id, data_file)]
        ),
        transaction_properties=properties or {},
    )
    with _quiet_conflicts(snapshot, fragment_id):
        lance.LanceDataset.commit(snapshot.table.uri, transaction, storage_options=options)
    crash_point("after_commit")


def _check_group(snapshot: Snapshot, fragment_id: int, group: pa.Table) -> None:
    where = f"fragment {fragment_id} of {snapshot.table.uri} at version {snapshot.version}"
    expected_rows = snapshot.fragment_rows(fragment_id)
    if group.num_rows != expected_rows:
        raise CommitRefused(f"{where} has {expected_rows} physical rows, the group has {group.num_rows}")
    for field in group.schema:
        index = snapshot.dataset.schema.get_field_index(field.name)
        if index < 0:
            raise CommitRefused(f"{where} has no column {field.name}; add it with ensure_columns() first")
        stored = snapshot.dataset.schema.field(index).type
        if not stored.equals(field.type):
            raise CommitRefused(f"{where}: column {field.name} is {stored}, the group holds {field.type}")


def _leaf_ids(snapshot: Snapshot, names: list[str]) -> list[int]:
    """Field ids of the leaves of top-level columns; in this format structs have no column of their own."""
    fields = {field.name(): field for field in snapshot.dataset.lance_schema.fields()}
    ids: list[int] = []
    for name in names:
        ids += _leaves(fields[name])
    return ids


def _leaves(field: Any) -> list[int]:
    children = field.children()
    if not children:
        return [field.id()]
    return [leaf for child in children for leaf in _leaves(child)]


@contextlib.contextmanager
def _quiet_conflicts(snapshot: Snapshot, fragment_id: int):
    try:
        yield
    except CommitConflictError as error:
        raise CommitConflict(f"{snapshot.table.uri} fragment {fragment_id}: {error}") from error
    except OSError as error:
        # Lance reports a fragment that a concurrent update removed as a plain OSError
        if any(marker in str(error).lower() for marker in CONFLICT_MARKERS):
            raise CommitConflict(f"{snapshot.table.uri} fragment {fragment_id}: {error}") from error
        raise
