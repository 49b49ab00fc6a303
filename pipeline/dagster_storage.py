"""How much Dagster's own state is, in runs, events and bytes, and how its deleted rows are given back.

Dagster has no calls for either. SQLite keeps one file per run and three for all; PostgreSQL keeps tables.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resources.lake.errors import LakeError

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

EVENTS = "event_logs"
SQLITE_FOLDERS = ("history", "schedules")
COMPUTE_LOGS = "storage"

_TABLE_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = current_schema()
"""


@dataclass(frozen=True)
class HistorySize:
    """Dagster's state: rows of runs and of the event log, bytes of both and of the runs' captured output."""

    runs: int
    events: int
    history_bytes: int
    output_bytes: int

    def as_json(self) -> dict[str, int]:
        """The size as plain values."""
        return asdict(self)


def history_size(instance: DagsterInstance) -> HistorySize:
    """Count and weigh. Under SQLite every run's file is opened: some milliseconds each."""
    import sqlalchemy

    home = Path(instance.root_directory)
    output = _bytes_below(home / COMPUTE_LOGS)
    if is_sqlite(instance):
        events = sum(_sqlite_events(path) for path in sqlite_files(home))
        held = sum(_bytes_below(home / folder) for folder in SQLITE_FOLDERS)
        return HistorySize(instance.get_runs_count(), events, held, output)
    with event_log(instance).index_connection() as connection:
        events = connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {EVENTS}")).scalar_one()
        held = connection.execute(sqlalchemy.text(_TABLE_BYTES)).scalar_one()
    return HistorySize(instance.get_runs_count(), events, held, output)


def compact(instance: DagsterInstance) -> None:
    """Rewrite the storage without the rows that were deleted, so that none of their bytes is left in it.

    Dagster waits meanwhile. PostgreSQL's write-ahead log and backups are not touched.
    """
    import sqlalchemy

    if is_sqlite(instance):
        for path in sqlite_files(Path(instance.root_directory)):
            with _opened(path) as database:
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with event_log(instance).index_connection() as connection:
        # the event log's connections commit by themselves, as VACUUM needs it
        for name in sqlalchemy.inspect(connection).get_table_names():
            connection.execute(sqlalchemy.text(f'VACUUM FULL "{name}"'))


def event_log(instance: DagsterInstance) -> SqlEventLogStorage:
    """The event log as tables. Raises LakeError for storages without any, which the home may name."""
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    found = instance.event_log_storage
    if not isinstance(found, SqlEventLogStorage):
        raise LakeError(f"{instance.root_directory}/dagster.yaml keeps events in a {type(found).__name__}")
    return found


def is_sqlite(instance: DagsterInstance) -> bool:
    """Whether the state lies in files of the Dagster home."""
    with event_log(instance).index_connection() as connection:
        return connection.dialect.name == "sqlite"


def sqlite_files(home: Path) -> list[Path]:
    """Every database of a home: one per run, one for what belongs to none, and those over all runs."""
    return sorted(path for folder in SQLITE_FOLDERS for path in (home / folder).rglob("*.db"))


def delete_runless_events(instance: DagsterInstance) -> None:
    """Delete every event that belongs to no run: Dagster's own `wipe` leaves them in SQLite's files."""
    if not is_sqlite(instance):
        return
    for path in sqlite_files(Path(instance.root_directory)):
        with _opened(path) as database:
            if _has_events(database):
                database.execute(f"DELETE FROM {EVENTS}")


def _sqlite_events(path: Path) -> int:
    with _opened(path) as database:
        return (
            database.execute(f"SELECT count(*) FROM {EVENTS}").fetchone()[0] if _has_events(database) else 0
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        yield database


def _has_events(database: sqlite3.Connection) -> bool:
    found = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (EVENTS,)).fetchone()
    return found is not None


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
