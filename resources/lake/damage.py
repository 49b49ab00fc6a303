"""Find damaged files of a lake by reading all of it: column groups, photographs, checkpoints, lists.

Lance keeps no checksum of its data files: one that is gone, cut short or overwritten is noticed on reading, a
few changed bytes within it are not. Photographs and checkpoints have a SHA-256 of their own and are compared.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from lance.fragment import LanceFragment

from resources.lake.errors import LakeError, is_damage
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE, Status, state_column
from resources.lake.table import LakeTable, Snapshot
from resources.lake.upgrade import base_schema

IMAGE = "image"
READ_ROWS = 256
"""Rows read together, so that memory stays bounded."""

NOT_DAMAGE = frozenset((errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""Errors of the operating system that say nothing about the file's content: they must not cost a row."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")

Kind = Literal["group", "rows", "photographs"]


@dataclass(frozen=True)
class Damage:
    """A damaged part of a table.

    `group`: computed columns of one fragment cannot be read. `rows`: nor can the rows' own columns, the
    fragment is lost. `photographs`: the rows are there, the bytes of the photographs `keys` are not.
    """

    kind: Kind
    table: str
    fragment: int
    rows: int
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class DamagedFile:
    """A damaged checkpoint or list of released rows, and the stages whose current artifact it is."""

    location: str
    detail: str


def find_damage(lake: Lake, groups: Mapping[str, Sequence[Sequence[str]]]) -> list[Damage]:
    """Read every column of every fragment. `groups` are the column groups of every table's stages.

    Raises LakeError when a file may not be read at all.
    """
    found: list[Damage] = []
    for name in lake.table_names():
        table = lake.table(name)
        if table.exists():
            snapshot = table.snapshot()
            for fragment in snapshot.dataset.get_fragments():
                found += _examine(name, snapshot, fragment, groups.get(name, ()))
    return found


def find_damaged_files(lake: Lake) -> list[DamagedFile]:
    """Checkpoints and lists that artifacts name and that are gone or not what they were."""
    rows = lake.artifacts.snapshot().dataset.to_table(columns=["location"])["location"].to_pylist()
    found = []
    for location in sorted({location for location in rows if location}):
        detail = _file_damage(lake, location)
        if detail:
            found.append(DamagedFile(location, detail))
    return found


def _examine(
    name: str, snapshot: Snapshot, fragment: LanceFragment, groups: Sequence[Sequence[str]]
) -> list[Damage]:
    """The damage of one fragment; nothing when all of it is sound."""
    bad: dict[str, str] = {}
    files = file_columns(snapshot, fragment)
    for columns in files:
        if _read_error(snapshot, fragment, columns):
            bad |= {
                column: error for column in columns if (error := _read_error(snapshot, fragment, [column]))
            }
    rows = int(fragment.physical_rows)
    own = base_schema(name)
    base = set(snapshot.columns) if own is None else set(own.names)
    detail = next(iter(bad.values()), "")
    where = (name, fragment.fragment_id, rows)
    if bad.keys() & base - {IMAGE}:
        return [Damage("rows", *where, tuple(sorted(bad)), (), detail)]
    found: list[Damage] = []
    if IMAGE in bad:
        found.append(
            Damage("photographs", *where, (IMAGE,), tuple(_keys(snapshot, fragment)), bad.pop(IMAGE))
        )
    elif name == "faces" and (keys := _changed_photographs(snapshot, fragment)):
        detail_of_bytes = "the bytes are not those whose SHA-256 is stored"
        found.append(Damage("photographs", *where, (IMAGE,), tuple(keys), detail_of_bytes))
    if bad:
        columns = _whole_groups(bad.keys(), groups, [set(item) - base for item in files])
        found.append(Damage("group", *where, columns, (), detail))
    return found


def file_columns(snapshot: Snapshot, fragment: LanceFragment) -> list[list[str]]:
    """Top-level columns of every data file of a fragment."""
    owner: dict[int, str] = {}

    def walk(field: Any, column: str) -> None:
        owner[field.id()] = column
        for child in field.children():
            walk(child, column)

    for field in snapshot.dataset.lance_schema.fields():
        walk(field, field.name())
    # a column that was replaced later has a negative field number in its old file
    return [
        list(dict.fromkeys(owner[number] for number in item.fields if number in owner))
        for item in fragment.data_files()
    ]


def _read_error(snapshot: Snapshot, fragment: LanceFragment, columns: Sequence[str]) -> str:
    """What is wrong with columns of a fragment; empty when they read well."""
    try:
        scanner = snapshot.dataset.scanner(
            columns=list(columns), fragments=[fragment], batch_size=READ_ROWS, scan_in_order=True
        )
        for batch in scanner.to_batches():
            batch.validate(full=True)
    except BaseException as error:
        # a panic of Lance's decoder over nonsense is no Exception, yet it is just what is looked for
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        told = _OS_ERROR.search(str(error))
        away = isinstance(error, OSError | ValueError) and not is_damage(error)  # of a store: not reached
        if (told and int(told[1]) in NOT_DAMAGE) or ("://" in snapshot.table.uri and away):
            raise LakeError(
                f"{snapshot.table.uri} may not be read: {error}. Nothing was changed; repair needs to read "
                "every file"
            ) from error
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return ""


def _changed_photographs(snapshot: Snapshot, fragment: LanceFragment) -> list[str]:
    """Ids of photographs that are not the bytes they were."""
    status = f"{state_column(FACES_STAGE)}.status"
    scanner = snapshot.dataset.scanner(
        columns=["image_id", IMAGE, "image_sha256", status], fragments=[fragment], batch_size=READ_ROWS
    )
    return [
        row["image_id"]
        for batch in scanner.to_batches()
        for row in batch.to_pylist()
        if row[status] == Status.OK.value
        and hashlib.sha256(row[IMAGE] or b"").hexdigest() != row["image_sha256"]
    ]


def _keys(snapshot: Snapshot, fragment: LanceFragment) -> list[str]:
    table: LakeTable = snapshot.table
    return snapshot.fragment_columns(fragment.fragment_id, [table.key])[table.key].to_pylist()


def _whole_groups(
    bad: Collection[str], groups: Sequence[Sequence[str]], files: Sequence[set[str]]
) -> tuple[str, ...]:
    """Columns to empty: a state without its values, or values without their state, must not stay.

    Columns of no known stage (another profile's) go with all that share their file.
    """
    doomed: set[str] = set()
    known = {column for group in groups for column in group}
    for group in groups:
        if set(group) & set(bad):
            doomed |= set(group)
    for columns in files:
        if set(columns) & (set(bad) - known):
            doomed |= columns - known
    return tuple(sorted(doomed))


def _file_damage(lake: Lake, location: str) -> str:
    if not lake.is_local:
        # a folder that this machine has was whole when it came; what counts is what the store has
        shutil.rmtree(lake.working_root / location, ignore_errors=True)
        try:
            lake.fetch(location)
        except LakeError as error:
            return str(error)
    path = lake.fetch(location)
    return _list_damage(path) if path.suffix == ".parquet" else _checkpoint_damage(path)


def _list_damage(path: Path) -> str:
    try:
        pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return ""


def _checkpoint_damage(folder: Path) -> str:
    """Compare a checkpoint's weights with the SHA-256 in its manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        wanted = manifest["weights_sha256"]
        files = sorted(folder.glob("*.safetensors"))
        actual = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if actual == [wanted] else "the weights are not those whose SHA-256 the manifest names"
