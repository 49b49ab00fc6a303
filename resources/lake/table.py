"""One Lance table of the lake: pinned reads by shard and row, appends, replaced rows.

A *shard* is named by the `shard` column and is a set of whole fragments; a fragment id never identifies a
shard, because updates and compaction change it. Row ids are stable and are the handle to a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import LanceFragment

from resources.lake.arrow import compute as pc
from resources.lake.arrow import one_piece
from resources.lake.errors import LakeError, clear_storage_errors
from resources.lake.leases import ensure_held
from resources.lake.schema import LAKE_FORMAT

ROW_ID = "_rowid"
ROW_ADDRESS = "_rowaddr"
FRAGMENT_SHIFT = 32
OFFSET_MASK = (1 << FRAGMENT_SHIFT) - 1

SCAN_CHUNK = 2048
"""`scan_chunks` joins Lance's batches to at least so many rows; a larger batch is handed out uncopied."""

SCAN_BUFFER_BYTES = 256 * 1024 * 1024
"""How far Lance may read ahead of a scan in chunks; its default of 2 GiB is more than a plan may take."""

READ_CHUNK = 512
"""Row ids asked for in one filtered read; bounds the length of the filter expression."""


_SHARDS_OF_FILE: dict[str, frozenset[str]] = {}
"""Shards of the rows in a data file, by its location: names of files are never used again, so this stays."""


@dataclass(frozen=True)
class LakeTable:
    """Handle to one table: where it is, which column is its key. Opening is cheap and never cached."""

    uri: str
    key: str
    storage_options: tuple[tuple[str, str], ...] = ()

    @property
    def _options(self) -> dict[str, str] | None:
        return dict(self.storage_options) or None

    def exists(self) -> bool:
        """Whether the table has been created."""
        try:
            lance.dataset(self.uri, storage_options=self._options)
        except (ValueError, FileNotFoundError):
            return False
        return True

    def create(self, schema: pa.Schema) -> None:
        """Create the empty table; an existing one is left as it is."""
        if self.exists():
            return
        try:
            lance.write_dataset(
                schema.empty_table(),
                self.uri,
                schema=schema,
                mode="create",
                data_storage_version=LAKE_FORMAT,
                enable_stable_row_ids=True,
                storage_options=self._options,
            )
        except OSError:
            if not self.exists():  # another process created it first: then all is well
                raise

    def snapshot(self, version: int | str | None = None) -> Snapshot:
        """The table pinned at one version (the newest by default) or tag."""
        try:
            dataset = lance.dataset(self.uri, version=version, storage_options=self._options)
        except (ValueError, FileNotFoundError) as error:
            raise LakeError(
                f"no readable table at {self.uri} (version {version or 'newest'}): {error}. "
                "Run `orchard ingest PATH` first, or point --lake at an existing lake."
            ) from error
        return Snapshot(self, dataset)

    def append(self, rows: pa.Table) -> None:
        """Append rows as new fragments. Columns that other stages own read as null for them."""
        if rows.num_rows == 0:
            return
        ensure_held(self.uri)
        lance.write_dataset(
            rows,
            self.uri,
            mode="append",
            storage_options=self._options,
            max_rows_per_file=max(rows.num_rows, 1),
        )

    def replace(self, rows: pa.Table) -> int:
        """Replace rows by key; columns not in `rows` keep their old values. Returns rows replaced.

        All rows must be of one shard: Lance moves replaced rows into one new fragment, and a fragment
        must never hold two shards.
        """
        if rows.num_rows == 0:
            return 0
        if "shard" in rows.schema.names and len(pc.unique(rows["shard"])) != 1:
            raise LakeError(f"replace() on {self.uri} was given rows of several shards; call it per shard")
        dataset = lance.dataset(self.uri, storage_options=self._options)
        ensure_held(self.uri)
        result = dataset.merge_insert(self.key).when_matched_update_all().execute(rows)
        return int(result["num_updated_rows"])

    def put(self, rows: pa.Table) -> None:
        """Replace known rows by key and append the others, in one commit; not for a table with shards."""
        if rows.num_rows:
            dataset = lance.dataset(self.uri, storage_options=self._options)
            ensure_held(self.uri)
            builder = dataset.merge_insert(self.key).when_matched_update_all()
            builder.when_not_matched_insert_all().execute(rows)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows by key, all in one commit; unknown keys are ignored."""
        if keys:
            dataset = lance.dataset(self.uri, storage_options=self._options)
            ensure_held(self.uri)
            dataset.delete(f"{self.key} IN ({_sql_strings(keys)})")

    def ensure_columns(self, fields: Iterable[pa.Field]) -> None:
        """Add missing columns, schema only (no data file is written).

        Raises LakeError when a column exists with another type: a lake holds one profile's columns.
        """
        dataset = lance.dataset(self.uri, storage_options=self._options)
        missing = []
        for field in fields:
            index = dataset.schema.get_field_index(field.name)
            if index < 0:
                missing.append(field)
            elif not dataset.schema.field(index).type.equals(field.type):
                raise LakeError(
                    f"column {field.name} of {self.uri} is {dataset.schema.field(index).type}, but this "
                    f"profile writes {field.type}. Use a lake of its own for each profile (--lake URI)."
                )
        if missing:
            with clear_storage_errors(self.uri):
                dataset.add_columns(pa.schema(missing))

    def tag(self, name: str, version: int) -> None:
        """Pin a version under a name; an existing tag is moved."""
        dataset = lance.dataset(self.uri, storage_options=self._options)
        if name in dataset.tags.list():
            dataset.tags.update(name, version)
        else:
            dataset.tags.create(name, version)


@dataclass(frozen=True)
class Snapshot:
    """A table at one pinned version. Everything computed from it is computed from one state."""

    table: LakeTable
    dataset: lance.LanceDataset

    @property
    def version(self) -> int:
        """The pinned Lance version."""
        return int(self.dataset.version)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Top-level column names at this version."""
        return frozenset(self.dataset.schema.names)

    def count(self) -> int:
        """Number of live rows."""
        return self.dataset.count_rows()

    def scan(
        self, columns: Sequence[str], *, shard: str | None = None, filter: str | None = None
    ) -> pa.Table:
        """Columns of all live rows (of one shard), with `_rowid` and `_rowaddr`, in storage order.

        Columns that no stage has added yet come back as all null.
        """
        found = self._scanner(columns, shard, filter).to_table()
        return _with_missing(found, columns)

    def scan_chunks(
        self, columns: Sequence[str], *, shard: str | None = None, rows: int = SCAN_CHUNK
    ) -> Iterator[pa.Table]:
        """Like `scan`, some rows at a time, every column in one piece; at least one chunk, maybe empty."""
        scanner = self._scanner(columns, shard, None, io_buffer_size=SCAN_BUFFER_BYTES)
        schema, held, count, yielded = None, [], 0, False
        for batch in scanner.to_batches():
            schema = batch.schema
            held.append(batch)
            count += batch.num_rows
            if count >= rows:
                yield _with_missing(pa.Table.from_batches(held), columns)
                held, count, yielded = [], 0, True
        if held or not yielded:
            rest = pa.Table.from_batches(held, schema or scanner.projected_schema)
            yield _with_missing(rest, columns)

    def fragments_of(self, shard: str) -> list[LanceFragment]:
        """The fragments that hold live rows of a shard, or held some once: no others need be opened for it.

        With hundreds of shards this is what makes work on one shard independent of their number.
        """
        return [
            fragment
            for fragment, name in self._fragments
            if name not in _SHARDS_OF_FILE or shard in _SHARDS_OF_FILE[name]
        ]

    @cached_property
    def _fragments(self) -> list[tuple[LanceFragment, str]]:
        """Every fragment with the name of the file that holds its shards, after these were looked up."""
        column = self._field_id("shard")
        found: list[tuple[LanceFragment, str]] = []
        for fragment in self.dataset.get_fragments():
            [file] = [item.path for item in fragment.data_files() if column in item.fields]
            found.append((fragment, f"{self.table.uri}/{file}"))
        unknown = [fragment for fragment, name in found if name not in _SHARDS_OF_FILE]
        if unknown:
            rows = self.dataset.scanner(
                columns=["shard"], fragments=unknown, with_row_address=True
            ).to_table()
            places = np.asarray(rows[ROW_ADDRESS]) >> FRAGMENT_SHIFT
            pairs = pa.table({"fragment": places, "shard": rows["shard"]})
            shards: dict[int, set[str]] = {}
            for item in pairs.group_by(["fragment", "shard"]).aggregate([]).to_pylist():
                shards.setdefault(item["fragment"], set()).add(item["shard"])
            for fragment, name in found:
                if fragment.fragment_id in shards:
                    _SHARDS_OF_FILE[name] = frozenset(shards[fragment.fragment_id])
        return found

    def _field_id(self, column: str) -> int:
        [field] = [item for item in self.dataset.lance_schema.fields() if item.name() == column]
        return field.id()

    def _scanner(
        self, columns: Sequence[str], shard: str | None, filter: str | None, **options: Any
    ) -> lance.LanceScanner:
        conditions = [f"shard = {_sql_strings([shard])}"] if shard is not None else []
        conditions += [f"({filter})"] if filter else []
        if shard is not None:  # the other shards' values are not even read: one shard of 400 costs a tenth
            options |= {"late_materialization": True, "fragments": self.fragments_of(shard)}
        return self.dataset.scanner(
            columns=[name for name in columns if name.split(".")[0] in self.columns],
            filter=" AND ".join(conditions) or None,
            with_row_id=True,
            with_row_address=True,
            scan_in_order=True,
            **options,
        )

    def read_rows(self, row_ids: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Values of the named rows, one dict per row, in the order of `row_ids`.

        Lists come back as nested Python lists only for small columns; use `read_columns` for arrays.
        Raises LakeError when a row is gone at this version.
        """
        return self.read_table(row_ids, columns).to_pylist()

    def read_table(self, row_ids: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The named rows as an Arrow table, in the order of `row_ids`."""
        parts = []
        for start in range(0, len(row_ids), READ_CHUNK):
            wanted = list(row_ids[start : start + READ_CHUNK])
            condition = f"{ROW_ID} IN ({', '.join(str(int(row)) for row in wanted)})"
            part = self.dataset.scanner(columns=list(columns), filter=condition, with_row_id=True).to_table()
            order = {row: index for index, row in enumerate(part[ROW_ID].to_pylist())}
            lost = [row for row in wanted if row not in order]
            if lost:
                raise LakeError(f"{len(lost)} rows are gone from {self.table.uri} at version {self.version}")
            parts.append(part.take(pa.array([order[row] for row in wanted], pa.int64())))
        if not parts:
            names = [*columns, ROW_ID]
            return pa.table({name: pa.nulls(0) for name in names})
        return pa.concat_tables(parts)

    def take(self, places: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows by their place among all live rows, in storage order as `scan` gives them; in the order asked.

        Quicker than `read_table` for whoever knows the places, most of all for ascending ones, each once.
        """
        return self.dataset.take(places.tolist(), columns=list(columns))

    def find(self, keys: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by key: {key: {column: value}}; unknown keys are absent."""
        found: dict[str, dict[str, Any]] = {}
        names = list(dict.fromkeys([self.table.key, *columns]))
        for start in range(0, len(keys), READ_CHUNK):
            condition = f"{self.table.key} IN ({_sql_strings(keys[start : start + READ_CHUNK])})"
            part = self.dataset.scanner(columns=names, filter=condition).to_table()
            for row in part.to_pylist():
                found[row[self.table.key]] = row
        return found

    def shards(self) -> list[str]:
        """Names of all shards that hold rows, sorted."""
        values = pc.unique(self.dataset.to_table(columns=["shard"])["shard"])
        return sorted(values.to_pylist())

    def fragment_rows(self, fragment_id: int) -> int:
        """Physical rows of a fragment, deleted ones included: the length a data file must have."""
        fragment = self.dataset.get_fragment(fragment_id)
        if fragment is None:
            raise LakeError(f"{self.table.uri} has no fragment {fragment_id} at version {self.version}")
        return int(fragment.physical_rows)

    def fragment_columns(self, fragment_id: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one fragment's live rows, with `_rowaddr`."""
        fragment = self.dataset.get_fragment(fragment_id)
        if fragment is None:
            raise LakeError(f"{self.table.uri} has no fragment {fragment_id} at version {self.version}")
        return self.dataset.scanner(
            columns=list(columns), fragments=[fragment], with_row_address=True, scan_in_order=True
        ).to_table()


def _with_missing(found: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The asked columns, absent ones as nulls, and row id and address; every column in one piece."""
    present = set(found.schema.names)
    arrays = [one_piece(found[name]) if name in present else pa.nulls(found.num_rows) for name in columns]
    return pa.table(
        [*arrays, one_piece(found[ROW_ID]), one_piece(found[ROW_ADDRESS])],
        names=[*columns, ROW_ID, ROW_ADDRESS],
    )


def split_addresses(addresses: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Row addresses as (fragment ids, physical offsets within the fragment), both int64."""
    values = np.asarray(addresses).astype(np.int64)
    return values >> FRAGMENT_SHIFT, values & OFFSET_MASK


def _sql_strings(values: Iterable[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
