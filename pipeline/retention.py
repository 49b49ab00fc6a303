"""How long Dagster's history is kept: old runs and events go, the newest result of every partition stays.

Dagster's own `retention` covers ticks alone, and its event log grows for ever: some 200 KB of SQLite per run.
What decides anything is in the lake, so history can go. But the newest materialisation of a partition is what
the UI and Dagster's staleness tell of it, and so it stays, with the run that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql

from pipeline.dagster_storage import HistorySize, compact, event_log, history_size, is_sqlite

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
    from sqlalchemy.engine import Connection

BACKFILL_TAG = "dagster/backfill"


@dataclass(frozen=True)
class Pruned:
    """What went and what stayed; `kept_runs` are old runs that something still needs."""

    runs: int
    kept_runs: int
    runless_events: int
    check_results: int
    before: HistorySize
    after: HistorySize

    def as_json(self) -> dict[str, Any]:
        """The account as plain values."""
        return {**vars(self), "before": self.before.as_json(), "after": self.after.as_json()}


def prune(instance: DagsterInstance, older_than: datetime, *, give_back: bool = False) -> Pruned:
    """Delete finished runs that were last updated before `older_than` (UTC), and events without a run.

    Of every partition of every asset the newest materialisation stays, and of every check its newest outcome.
    A run stays whole that made such a materialisation, that is the newest success of its job, or that belongs
    to a backfill which is not finished. `give_back` rewrites the storage without the deleted rows.
    """
    from dagster import RunsFilter
    from dagster._core.storage.dagster_run import FINISHED_STATUSES

    before = history_size(instance)
    needed = _needed_runs(instance)
    kept = gone = 0
    for run_id in instance.get_run_ids(RunsFilter(statuses=FINISHED_STATUSES, updated_before=older_than)):
        if run_id in needed:
            kept += 1
        else:
            _delete_run(instance, run_id)
            gone += 1
    moment = older_than.replace(tzinfo=None)  # as Dagster stores it
    with event_log(instance).index_transaction() as connection:
        events = _delete_runless_events(connection, moment)
        checks = _delete_check_results(connection, moment)
    if is_sqlite(instance):
        _delete_copies(instance, moment)
    if give_back:
        compact(instance)
    return Pruned(gone, kept, events, checks, before, history_size(instance))


def _needed_runs(instance: DagsterInstance) -> set[str]:
    """Runs that must stay whatever their age."""
    from dagster import DagsterRunStatus, RunsFilter
    from dagster._core.execution import backfill as backfills

    from pipeline.automation.discovery import DISCOVER_JOB, REFRESH_JOB

    events = _tables().SqlEventLogStorageTable
    with event_log(instance).index_connection() as connection:
        chosen = sql.select(events.c.run_id).where(events.c.id.in_(_newest_results())).distinct()
        needed = set(connection.execute(chosen).scalars())
    ended = backfills.BULK_ACTION_TERMINAL_STATUSES
    running = [status for status in backfills.BulkActionStatus if status not in ended]
    for backfill in instance.get_backfills(filters=backfills.BulkActionsFilter(statuses=running)):
        ours = RunsFilter(tags={BACKFILL_TAG: backfill.backfill_id})
        needed |= {run.run_id for run in instance.get_runs(ours)}
    for job in (DISCOVER_JOB, REFRESH_JOB):  # the sensor of stale shards asks for the newest
        newest = RunsFilter(job_name=job, statuses=[DagsterRunStatus.SUCCESS])
        needed |= {run.run_id for run in instance.get_runs(newest, limit=1)}
    return needed


def _delete_run(instance: DagsterInstance, run_id: str) -> None:
    """Delete a run, its events, tags and captured output, and under SQLite its file."""
    from dagster._core.storage.event_log import SqliteEventLogStorage
    from dagster._core.storage.runs.schema import RunTagsTable

    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    log = event_log(instance)
    if isinstance(log, SqliteEventLogStorage):
        with _run_storage(instance).connect() as connection:
            # PostgreSQL does it by itself, SQLite is not told to
            connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id == run_id))
        for ending in ("", "-wal", "-shm"):
            Path(log.path_for_shard(run_id) + ending).unlink(missing_ok=True)


def _delete_runless_events(connection: Connection, moment: datetime) -> int:
    """Delete old events without a run that tell of no newest result, and their tags."""
    from dagster._core.instance import RUNLESS_RUN_ID

    events, tags = _tables().SqlEventLogStorageTable, _tables().AssetEventTagsTable
    old = sql.and_(
        events.c.run_id == RUNLESS_RUN_ID,
        events.c.timestamp < moment,
        events.c.id.not_in(_newest_results()),
    )
    connection.execute(tags.delete().where(tags.c.event_id.in_(sql.select(events.c.id).where(old))))
    return connection.execute(events.delete().where(old)).rowcount


def _delete_check_results(connection: Connection, moment: datetime) -> int:
    """Delete old outcomes of checks that have a newer one for the same partition."""
    checks = _tables().AssetCheckExecutionsTable
    newest = sql.select(sql.func.max(checks.c.id)).group_by(
        checks.c.asset_key, checks.c.check_name, checks.c.partition
    )
    old = sql.and_(checks.c.create_timestamp < moment, checks.c.id.not_in(newest))
    return connection.execute(checks.delete().where(old)).rowcount


def _delete_copies(instance: DagsterInstance, moment: datetime) -> None:
    """SQLite holds events without a run a second time, in a file without a name, which nobody reads."""
    from dagster._core.instance import RUNLESS_RUN_ID

    events = _tables().SqlEventLogStorageTable
    with event_log(instance).run_connection(RUNLESS_RUN_ID) as connection:
        connection.execute(events.delete().where(events.c.timestamp < moment))


def _newest_results() -> sql.Select[tuple[int]]:
    """Ids of the newest materialisation of every partition of every asset."""
    from dagster import DagsterEventType

    events = _tables().SqlEventLogStorageTable
    kind = DagsterEventType.ASSET_MATERIALIZATION.value
    return (
        sql.select(sql.func.max(events.c.id))
        .where(events.c.dagster_event_type == kind)
        .group_by(events.c.asset_key, events.c.partition)
    )


def _tables() -> ModuleType:
    """Dagster's own description of its tables; the pinned version's, and tests hold us to it."""
    from dagster._core.storage.event_log import schema

    return schema


def _run_storage(instance: DagsterInstance) -> SqlRunStorage:
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    assert isinstance(instance.run_storage, SqlRunStorage)  # as the event log, which was looked at
    return instance.run_storage
