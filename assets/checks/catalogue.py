"""Which checks every stage has, what they are for, and how to run them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from assets.checks.accounting import rows_accounted
from assets.checks.artifact_files import artifact_complete
from assets.checks.findings import Finding, Severity, first_keys, named
from assets.checks.finite import values_finite
from assets.checks.plausibility import (
    IRIS_COLUMNS,
    LANDMARK_COLUMNS,
    iris_plausible,
    landmarks_plausible,
)
from assets.checks.quarantine import quarantined_share
from assets.checks.rows import StageShard
from assets.checks.schema import schema_as_declared
from assets.checks.uniqueness import ids_unique
from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from resources.lake.arrow import compute as pc
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE
from resources.lake.table import Snapshot

ROWS_ACCOUNTED = "rows_accounted"
ARTIFACT_COMPLETE = "artifact_complete"


@dataclass(frozen=True)
class Check:
    """A check as people see it. A blocking one holds back what is below when it fails with an error."""

    name: str
    description: str
    blocking: bool
    run: Callable[[StageShard], Finding] | None = None


ACCOUNTING = Check(
    ROWS_ACCOUNTED,
    "Every row is exactly one of ok, quarantined and pending, and none is pending. Blocking: what is made "
    "from half a shard is made again later.",
    blocking=True,
)
"""Needs the planner's count of pending rows, besides the shard."""

COMPLETE = Check(
    ARTIFACT_COMPLETE,
    "Files, tags and tables that the artifact names are there, have their digests, and hold finite numbers. "
    "Blocking: what is made from a damaged artifact is wrong.",
    blocking=True,
)
"""The one check of what has no rows."""

UNIQUE = Check(
    "ids_unique",
    "Every id names one row of the whole table, not only of this shard. Blocking: stages below look "
    "photographs up by id.",
    blocking=True,
)
SCHEMA = Check(
    "schema_as_declared",
    "Columns, types and nullability in the lake are those that the stage declares. Blocking: values of "
    "another type or size mean something else.",
    blocking=True,
    run=schema_as_declared,
)
QUARANTINED = Check(
    "quarantined_share",
    "The share of rows that this stage set aside, by reason: WARN above the profile's soft limit, ERROR "
    "above its hard one. Not blocking: such rows are rightly left out, the rest is good.",
    blocking=False,
    run=quarantined_share,
)
FINITE = Check(
    "values_finite",
    "Rows that are ok hold every output and no NaN or infinity; other rows hold no output. Blocking: one NaN "
    "spoils a training.",
    blocking=True,
    run=values_finite,
)
LANDMARKS = Check(
    "landmarks_plausible",
    "Landmarks lie within the photograph and on the face box, eyes apart, left before right and upright when "
    "aligned. WARN from one row, ERROR above the profile's limit. Not blocking: it names photographs to look "
    "at.",
    blocking=False,
    run=landmarks_plausible,
)
IRIS = Check(
    "iris_plausible",
    "Both irises lie within their own eyes and have the size of one. WARN from one row, ERROR above the "
    "profile's limit. Not blocking: it names photographs to look at.",
    blocking=False,
    run=iris_plausible,
)


@dataclass(frozen=True)
class CheckRun:
    """One check that was run, on one stage and one shard (None: an artifact)."""

    stage: str
    shard: str | None
    check: Check
    finding: Finding

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "stage": self.stage,
            "check": self.check.name,
            "shard": self.shard,
            "passed": self.finding.passed,
            "severity": None if self.finding.passed else self.finding.severity.value,
            "blocking": self.check.blocking,
            "message": self.finding.message,
            "metadata": dict(self.finding.metadata),
        }


def checks_of(graph: StageGraph, stage: str) -> tuple[Check, ...]:
    """Checks of a stage of the graph, or of `faces`."""
    if stage == FACES_STAGE:
        return (ACCOUNTING, UNIQUE, SCHEMA, QUARANTINED)
    declared = graph[stage]
    if not isinstance(declared, RowStage):
        return (COMPLETE,)
    checks = [ACCOUNTING, SCHEMA, QUARANTINED, FINITE]
    if declared.table != FACES_STAGE and graph.row_stages(declared.table)[0].name == stage:
        checks.insert(1, UNIQUE)
    made = {column.name for column in declared.outputs}
    checks += [
        check for check, columns in ((LANDMARKS, LANDMARK_COLUMNS), (IRIS, IRIS_COLUMNS)) if columns <= made
    ]
    return tuple(checks)


class DataChecks:
    """Runs checks over one pinned state of a lake; tables are pinned when they are first looked at."""

    def __init__(self, lake: Lake, graph: StageGraph) -> None:
        self.lake, self.graph = lake, graph
        self._snapshots: dict[str, Snapshot] = {}
        self._unique: dict[str, Finding] = {}

    def run(
        self,
        stage: str,
        shard: str | None,
        *,
        names: Collection[str] | None = None,
        pending: int | None = None,
    ) -> Iterator[CheckRun]:
        """The checks of a stage on one shard (None for an artifact), all of them or those named.

        `pending` is the number of rows without a result of today's inputs, where the caller knows it already;
        planning costs more than the other checks.
        """
        for check in checks_of(self.graph, stage):
            if names is None or check.name in names:
                yield CheckRun(stage, shard, check, self._find(check, stage, shard, pending))

    def rows(self, stage: str, shard: str) -> int:
        """How many rows a shard of a row stage has."""
        return sum(len(batch["shard"]) for batch in self._rows(stage, shard).batches(["shard"]))

    def computed_shards(self, stage: str) -> list[str]:
        """Shards of a row stage in which it has computed something, sorted."""
        rows = self._rows(stage, None)
        done: set[str] = set()
        for batch in rows.batches(["shard", f"{rows.state}.status"]):
            done.update(
                pc.unique(batch["shard"].filter(batch[f"{rows.state}.status"].is_valid())).to_pylist()
            )
        return sorted(done)

    def _find(self, check: Check, stage: str, shard: str | None, pending: int | None) -> Finding:
        if check is COMPLETE:
            return artifact_complete(self.lake, stage)
        rows = self._rows(stage, shard)
        if check is UNIQUE:  # of the whole table, so the same for all shards
            if rows.table not in self._unique:
                self._unique[rows.table] = ids_unique(rows)
            return self._unique[rows.table]
        if check.run is not None:
            return check.run(rows)
        if pending is None:
            pending = pending_rows(Planner(self.lake, self.graph), stage, shard)
        return rows_accounted(rows, pending)

    def _rows(self, stage: str, shard: str | None) -> StageShard:
        declared = None if stage == FACES_STAGE else self.graph[stage]
        table = declared.table if isinstance(declared, RowStage) else FACES_STAGE
        if table not in self._snapshots:
            self._snapshots[table] = self.lake.table(table).snapshot()
        return StageShard.of(self.graph, stage, shard, self._snapshots[table])


def summed_up(runs: Sequence[CheckRun]) -> Finding:
    """The outcome of one check over many shards: as bad as the worst of them, the failed ones named."""
    failed = [run for run in runs if not run.finding.passed]
    shards = [str(run.shard) for run in failed]
    figures = {"shards": len(runs), "failed": len(failed), "failed_shards": first_keys(shards)}
    if not failed:
        return Finding(True, f"{len(runs)} shards passed", figures)
    severities = {run.finding.severity for run in failed}
    worst = Severity.ERROR if Severity.ERROR in severities else Severity.WARN
    first = next(run for run in failed if run.finding.severity is worst)
    return Finding(
        passed=False,
        message=f"{len(failed)} of {len(runs)} shards failed: {named(shards)}. {first.shard}: "
        f"{first.finding.message}",
        metadata=figures,
        severity=worst,
    )


def pending_rows(planner: Planner, stage: str, shard: str | None) -> int:
    """Rows of a shard without a result of today's inputs; the ingest itself is never behind."""
    if stage == FACES_STAGE:
        return 0
    declared = planner.graph[stage]
    assert isinstance(declared, RowStage)  # artifacts have no rows
    return int(planner.stage_rows(declared, shard).stale.sum())
