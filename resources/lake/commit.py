"""The only code that commits a column group, or exchanges rows for others.

Lance's DataReplacement validates nothing: a file of the wrong length, of the wrong type, or that is not
there at all is accepted and fails on the next read. So everything is checked here first. A kill at any
point leaves either the old state or the new one: new files are invisible until the one atomic commit.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.file import LanceFileReader, LanceFileWriter
from lance.fragment import DataFile, FragmentMetadata, LanceFragment, write_fragments

from resources.lake.errors import CommitConflict, CommitRefused
from resources.lake.failpoints import crash_point
from resources.lake.leases import ensure_held
from resources.lake.schema import LAKE_FORMAT
from resources.lake.table import ROW_ID, Snapshot

CONFLICT_MARKERS = ("conflict", "retryable", "preempted", "too many concurrent writers")


@dataclass(frozen=True)
class WrittenGroup:
    """A data file that holds one column group of one fragment, and that no version names yet.

    `version` is the version of the table that it was made for; `columns` are the columns' names and Arrow
    types. It can be handed to another process, which commits it.
    """

    fragment_id: int
    version: int
    file_name: str
    columns: pa.Schema


def commit_group(
    snapshot: Snapshot, fragment_id: int, group: pa.Table, properties: dict[str, str] | None = None
) -> None:
    """Replace one column group of one fragment, atomically.

    `group` has one row per *physical* row of the fragment (deleted rows hold nulls) and its columns
    must exist in the table with the same types. `snapshot` is the version its inputs were read from.

    Raises CommitRefused when the group does not fit, CommitConflict when another writer came first.
    """
    _commit_file(snapshot, write_group(snapshot, fragment_id, group), properties)


def write_group(snapshot: Snapshot, fragment_id: int, group: pa.Table) -> WrittenGroup:
    """Write the data file of a column group, see `commit_group`; `commit_written` makes it part of the table.

    Raises CommitRefused when the group does not fit.
    """
    _check_group(snapshot, fragment_id, group.schema, group.num_rows)
    name = f"{uuid.uuid4().hex}.lance"
    options = dict(snapshot.table.storage_options) or None
    path = _data_path(snapshot, name)
    with LanceFileWriter(path, schema=group.schema, version=LAKE_FORMAT, storage_options=options) as writer:
        for batch in group.to_batches():
            writer.write_batch(batch)
    crash_point("after_data_file")
    return WrittenGroup(fragment_id, snapshot.version, name, group.schema)


def commit_written(
    snapshot: Snapshot, written: WrittenGroup, properties: dict[str, str] | None = None
) -> None:
    """Commit a data file that another process wrote. `snapshot` is the version that it was made for.

    The file is opened first: it must be there, as long as the fragment, and of the columns that it claims.

    Raises CommitRefused when it does not fit, CommitConflict when another writer came first.
    """
    if snapshot.version != written.version:
        raise CommitRefused(
            f"{written.file_name} was made for version {written.version} of {snapshot.table.uri}, not for "
            f"{snapshot.version}; make it again"
        )
    options = dict(snapshot.table.storage_options) or None
    path = _data_path(snapshot, written.file_name)
    try:
        file = LanceFileReader(path, storage_options=options)
        rows, columns = file.num_rows(), file.metadata().schema
    except (OSError, ValueError) as error:
        raise CommitRefused(
            f"{path} cannot be read here ({error}); every node of a cluster must see the lake at {path!r}"
        ) from error
    if not columns.equals(written.columns):
        raise CommitRefused(f"{path} holds {columns.names}, not {written.columns.names}, or of other types")
    _check_group(snapshot, written.fragment_id, columns, rows)
    _commit_file(snapshot, written, properties)


def _data_path(snapshot: Snapshot, name: str) -> str:
    return f"{snapshot.table.uri}/data/{name}"


def _commit_file(snapshot: Snapshot, written: WrittenGroup, properties: dict[str, str] | None) -> None:
    fragment_id, options = written.fragment_id, dict(snapshot.table.storage_options) or None
    leaf_ids = _leaf_ids(snapshot, written.columns.names)
    major, minor = (int(part) for part in LAKE_FORMAT.split("."))
    data_file = DataFile(written.file_name, leaf_ids, list(range(len(leaf_ids))), major, minor, None)
    transaction = lance.Transaction(
        read_version=snapshot.version,
        operation=LanceOperation.DataReplacement(
            [LanceOperation.DataReplacementGroup(fragment_id, data_file)]
        ),
        transaction_properties=properties or {},
    )
    ensure_held(snapshot.table.uri)
    with _quiet_conflicts(f"{snapshot.table.uri} fragment {fragment_id}"):
        lance.LanceDataset.commit(snapshot.table.uri, transaction, storage_options=options)
    crash_point("after_commit")


def exchange_rows(snapshot: Snapshot, row_ids: Collection[int], added: Sequence[pa.Table]) -> int:
    """Delete rows and append others in one commit; returns the version that it made.

    Every table of `added` becomes a fragment of its own (so that no fragment holds two shards), with row ids
    of its own; columns that it lacks read as null. Rows that are not named keep their ids and all columns.

    All fragments are named as touched, so that of two writers who exchange rows of one state the second must
    look again. In a table without a fragment nothing can be named, and both may append: a version that is
    not the snapshot's next one says so. Raises CommitConflict when another writer came first.
    """
    options = dict(snapshot.table.storage_options) or None
    removed: list[int] = []
    kept: list[FragmentMetadata] = []
    for fragment in snapshot.dataset.get_fragments():
        rest = _without_rows(snapshot, fragment, row_ids)
        if rest is None:
            removed.append(fragment.fragment_id)
        else:
            kept.append(rest)
    new: list[FragmentMetadata] = []
    for rows in added:
        # Lance's stubs do not know that without `return_transaction` these are fragments
        new += write_fragments(  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
            rows,
            snapshot.table.uri,
            mode="append",
            max_rows_per_file=max(rows.num_rows, 1),
            storage_options=options,
        )
    crash_point("after_data_file")
    operation = LanceOperation.Update(removed, kept, new)
    ensure_held(snapshot.table.uri)
    with _quiet_conflicts(snapshot.table.uri):
        done = lance.LanceDataset.commit(
            snapshot.table.uri, operation, read_version=snapshot.version, storage_options=options
        )
    crash_point("after_commit")
    return int(done.version)


def _without_rows(
    snapshot: Snapshot, fragment: LanceFragment, row_ids: Collection[int]
) -> FragmentMetadata | None:
    """The fragment with these of its rows deleted, not committed yet; None when no row is left."""
    if not row_ids:
        return fragment.metadata
    scanner = snapshot.dataset.scanner(columns=[], fragments=[fragment], with_row_id=True)
    doomed = sorted(set(scanner.to_table()[ROW_ID].to_pylist()) & set(row_ids))
    if not doomed:
        return fragment.metadata
    return fragment.delete(f"{ROW_ID} IN ({', '.join(map(str, doomed))})")


def _check_group(snapshot: Snapshot, fragment_id: int, columns: pa.Schema, rows: int) -> None:
    where = f"fragment {fragment_id} of {snapshot.table.uri} at version {snapshot.version}"
    expected_rows = snapshot.fragment_rows(fragment_id)
    if rows != expected_rows:
        raise CommitRefused(f"{where} has {expected_rows} physical rows, the group has {rows}")
    for field in columns:
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
def _quiet_conflicts(where: str):
    try:
        yield
    except CommitConflictError as error:
        raise CommitConflict(f"{where}: {error}") from error
    except OSError as error:
        # Lance reports a fragment that a concurrent update removed as a plain OSError
        if any(marker in str(error).lower() for marker in CONFLICT_MARKERS):
            raise CommitConflict(f"{where}: {error}") from error
        raise
