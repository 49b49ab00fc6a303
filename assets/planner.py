"""The one planner: what is stale, what waits, and why. A pure function of the lake.

It pins every table once, loads no model and reads no picture. The schedule, the sensor, every asset's own
guard and the command line all ask it, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from assets.stage import ArtifactStage, Input, RowStage, Stage, StageGraph
from resources.lake.arrow import compute as pc
from resources.lake.digest import (
    PART_BYTES,
    RECIPE_BYTES,
    combine_fingerprints,
    digest_bytes,
    explain_difference,
    shard_digest,
)
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import DIGEST_BYTES, FACES_STAGE, Status, state_column
from resources.lake.table import ROW_ADDRESS, ROW_ID, Snapshot

NEVER_COMPUTED = "never_computed"
FORCED = "forced"


@dataclass(frozen=True)
class StageRows:
    """State of one stage for all rows of a table (or of one shard), as arrays of equal length N.

    `stale`: no result, or one from other inputs than today's. `waiting`: an upstream is itself stale or
    waiting, so the row cannot be computed yet. `pending`: never computed.
    """

    digest: pa.Array
    stored: pa.Array
    expected: pa.Array
    pending: np.ndarray
    quarantined: np.ndarray
    stale: np.ndarray
    waiting: np.ndarray
    upstream_quarantined: np.ndarray
    attempt: pa.Array
    reason: pa.Array

    @property
    def ready(self) -> np.ndarray:
        """Rows to compute now: stale, and everything they need is there."""
        return self.stale & ~self.waiting

    @property
    def ok(self) -> np.ndarray:
        """Rows that hold a result of today's inputs."""
        return ~self.stale & ~self.quarantined


@dataclass(frozen=True)
class TablePlan:
    """All row stages of one table at one pinned version; arrays of length N in storage order."""

    snapshot: Snapshot
    keys: list[str]
    shards: np.ndarray
    row_ids: np.ndarray
    addresses: np.ndarray
    stages: dict[str, StageRows]

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each key."""
        return {key: position for position, key in enumerate(self.keys)}

    def shard_digests(self, stage: str) -> dict[str, str]:
        """Data version of every shard: digest over its rows' digests."""
        grouped: dict[str, list[tuple[str, bytes]]] = {}
        digests = self.stages[stage].digest.to_pylist()
        for key, shard, digest in zip(self.keys, self.shards, digests, strict=True):
            grouped.setdefault(shard, []).append((key, digest or b""))
        return {shard: shard_digest(rows) for shard, rows in grouped.items()}


@dataclass(frozen=True)
class ArtifactPlan:
    """State of one artifact stage."""

    current: Artifact | None
    expected: bytes | None
    stale: bool
    waiting: bool
    why: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether it can and should be made now."""
        return self.stale and not self.waiting and self.expected is not None


@dataclass
class StagePlan:
    """One stage's line in a plan."""

    stale_rows: int = 0
    waiting_rows: int = 0
    shards: list[str] = field(default_factory=list)
    why: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The line as plain values."""
        return {
            "stale_rows": self.stale_rows,
            "waiting_rows": self.waiting_rows,
            "shards": self.shards,
            "why": self.why,
        }


class Planner:
    """Plans over one pinned state of a lake. `forced` stages count all their rows as stale."""

    def __init__(self, lake: Lake, graph: StageGraph, forced: Collection[str] = ()) -> None:
        self.lake, self.graph, self.forced = lake, graph, frozenset(forced)
        self._snapshots: dict[str, Snapshot] = {}
        self._tables: dict[tuple[str, str | None], TablePlan] = {}
        self._artifacts: dict[str, ArtifactPlan] = {}

    def snapshot(self, table: str) -> Snapshot:
        """The table's version that this plan is about."""
        if table not in self._snapshots:
            self._snapshots[table] = self.lake.table(table).snapshot()
        return self._snapshots[table]

    def table(self, name: str, shard: str | None = None) -> TablePlan:
        """Plan of all row stages of a table, or of one of its shards."""
        if (name, shard) not in self._tables:
            self._plan_table(name, shard)
        return self._tables[name, shard]

    def stage_rows(self, stage: RowStage, shard: str | None = None) -> StageRows:
        """Plan of one row stage."""
        return self.table(stage.table, shard).stages[stage.name]

    def artifact(self, name: str) -> ArtifactPlan:
        """Plan of one artifact stage."""
        if name not in self._artifacts:
            stage = self.graph[name]
            if not isinstance(stage, ArtifactStage):
                raise TypeError(f"{name} is a row stage, not an artifact")
            self._artifacts[name] = self._plan_artifact(stage)
        return self._artifacts[name]

    def plan(self, stage: Stage) -> StagePlan:
        """One stage's line: how many rows are stale, in which shards, and why."""
        if isinstance(stage, ArtifactStage):
            found = self.artifact(stage.name)
            why = {"+".join(found.why): 1} if found.stale else {}
            return StagePlan(int(found.stale), int(found.waiting), [], why)
        if not isinstance(stage, RowStage):
            raise TypeError(f"{stage.name} is neither a row stage nor an artifact stage")
        table = self.table(stage.table)
        rows = table.stages[stage.name]
        return StagePlan(
            stale_rows=int(rows.stale.sum()),
            waiting_rows=int(rows.waiting.sum()),
            shards=sorted(set(table.shards[rows.stale].tolist())),
            why=explain_rows(stage, rows, stage.name in self.forced),
        )

    def _plan_table(self, name: str, shard: str | None) -> None:
        snapshot = self.snapshot(name)
        stages = self.graph.row_stages(name)
        owners = [*([FACES_STAGE] if name == "faces" else []), *(stage.name for stage in stages)]
        parts = ("fingerprint", "digest", "status", "attempt", "reason")
        key = snapshot.table.key
        names = [f"{state_column(owner)}.{part}" for owner in owners for part in parts]
        foreign = {item.via for stage in stages for item in stage.inputs if item.via}
        scanned = snapshot.scan([key, "shard", *sorted(foreign), *names], shard=shard)
        columns = {column: scanned[column].combine_chunks() for column in scanned.schema.names}
        count = scanned.num_rows
        table = TablePlan(
            snapshot=snapshot,
            keys=columns[key].to_pylist(),
            shards=np.asarray(columns["shard"].to_pylist(), dtype=object),
            row_ids=np.asarray(columns[ROW_ID]).astype(np.int64),
            addresses=np.asarray(columns[ROW_ADDRESS]).astype(np.int64),
            stages={},
        )
        # known before its stages are: an artifact made from this table may be an input of a later stage of it
        self._tables[name, shard] = table
        if name == "faces":
            table.stages[FACES_STAGE] = _ingested_rows(columns, count)
        for stage in stages:
            upstream = [self._upstream_rows(item, table, columns, count) for item in stage.inputs]
            table.stages[stage.name] = self._plan_rows(stage, upstream, columns, count)

    def _upstream_rows(
        self, item: Input, table: TablePlan, columns: dict[str, pa.Array], count: int
    ) -> StageRows:
        """State of an input, one entry per row of the table that needs it."""
        if item.stage != FACES_STAGE and isinstance(self.graph[item.stage], ArtifactStage):
            return _broadcast(self.artifact(item.stage), count)
        if item.via is None:
            return table.stages[item.stage]
        faces = self.table("faces")
        places = [faces.index.get(key, -1) for key in columns[item.via].to_pylist()]
        return _take(faces.stages[item.stage], np.asarray(places, dtype=np.int64))

    def _plan_rows(
        self, stage: RowStage, upstream: list[StageRows], columns: dict[str, pa.Array], count: int
    ) -> StageRows:
        state = {
            part: columns[f"{state_column(stage.name)}.{part}"]
            for part in ("fingerprint", "digest", "status", "attempt", "reason")
        }
        stored = state["fingerprint"].cast(pa.binary())
        tracked = [rows for item, rows in zip(stage.inputs, upstream, strict=True) if item.tracked]
        expected = combine_fingerprints(stage.prefix, [rows.digest for rows in tracked])
        pending = ~np.asarray(pc.is_valid(stored)).astype(bool)
        same = np.asarray(pc.fill_null(pc.equal(stored, expected), False)).astype(bool)
        stale = pending | ~same
        if stage.name in self.forced:
            stale = np.ones(count, dtype=bool)
        none = np.zeros(count, dtype=bool)
        waiting = np.logical_or.reduce([none, *(rows.stale | rows.waiting for rows in upstream)])
        return StageRows(
            digest=state["digest"].cast(pa.binary(DIGEST_BYTES)),
            stored=stored,
            expected=expected,
            pending=pending,
            quarantined=_equals(state["status"], Status.QUARANTINED.value),
            stale=stale,
            waiting=waiting,
            upstream_quarantined=np.logical_or.reduce([none, *(rows.quarantined for rows in upstream)]),
            attempt=state["attempt"],
            reason=state["reason"],
        )

    def _plan_artifact(self, stage: ArtifactStage) -> ArtifactPlan:
        current = self.lake.current_artifact(stage.name)
        waiting, digests = False, []
        for item in stage.tracked:
            upstream = self.graph[item.stage]
            if isinstance(upstream, ArtifactStage):
                found = self.artifact(item.stage)
                waiting |= found.stale or found.waiting
                digests.append(found.current.digest if found.current else b"")
                continue
            if not isinstance(upstream, RowStage):
                raise TypeError(f"{stage.name} depends on {item.stage}, which has no rows")
            table = self.table(upstream.table)
            rows = table.stages[item.stage]
            waiting |= bool((rows.stale | rows.waiting).any()) or not table.keys
            pairs = (
                (key, value or b"") for key, value in zip(table.keys, rows.digest.to_pylist(), strict=True)
            )
            digests.append(bytes.fromhex(shard_digest(pairs)))
        stale = current is None or stage.name in self.forced
        why: list[str] = [NEVER_COMPUTED] if current is None else [FORCED] if stale else []
        expected = None
        if not waiting:
            extra = stage.extra_content(self.lake) if stage.extra_content else b""
            expected = stage.prefix + b"".join(digests) + (digest_bytes(extra) if extra else b"")
            if current is not None and current.fingerprint != expected:
                stale = True
                labels = [item.label for item in stage.tracked] + ["extra_content"]
                why = explain_difference(current.fingerprint, expected, labels)
        return ArtifactPlan(current, expected, stale, waiting, tuple(why))


def explain_rows(stage: RowStage, rows: StageRows, forced: bool = False) -> dict[str, int]:
    """Why rows are stale: {"never_computed": 3, "config+input:masks": 1}. Every stale row counts once."""
    if forced:
        return {FORCED: int(rows.stale.sum())} if rows.stale.any() else {}
    why: Counter[str] = Counter()
    never = int((rows.stale & rows.pending).sum())
    if never:
        why[NEVER_COMPUTED] = never
    positions = np.flatnonzero(rows.stale & ~rows.pending)
    if not len(positions):
        return dict(why)
    stored, expected = rows.stored.take(pa.array(positions)), rows.expected.take(pa.array(positions))
    labels = ["code_version", "config", "weights", *(f"input:{item.label}" for item in stage.tracked)]
    edges = [PART_BYTES * step for step in range(3)]
    edges += [RECIPE_BYTES + DIGEST_BYTES * step for step in range(len(stage.tracked) + 1)]
    flags = np.zeros(len(positions), dtype=np.int64)
    for bit, (start, stop) in enumerate(pairwise(edges)):
        part = pc.not_equal(_slice(stored, start, stop), _slice(expected, start, stop))
        # a null means that the upstream has no digest any more: that input is what changed
        flags |= np.asarray(pc.fill_null(part, bit >= 3)).astype(np.int64) << bit
    for value, count in zip(*np.unique(flags, return_counts=True), strict=True):
        names = [label for bit, label in enumerate(labels) if value >> bit & 1]
        why["+".join(names) or "inputs_declared"] += int(count)
    return dict(why)


def _slice(values: pa.Array, start: int, stop: int) -> pa.Array:
    return pc.binary_slice(values, start, stop)


def _equals(values: pa.Array, text: str) -> np.ndarray:
    if pa.types.is_null(values.type):
        return np.zeros(len(values), dtype=bool)
    return np.asarray(pc.fill_null(pc.equal(values, text), False)).astype(bool)


def _ingested_rows(columns: dict[str, pa.Array], count: int) -> StageRows:
    """The ingest's own rows: never stale, either ok or quarantined."""
    state = state_column(FACES_STAGE)
    none = np.zeros(count, dtype=bool)
    return StageRows(
        digest=columns[f"{state}.digest"],
        stored=columns[f"{state}.fingerprint"],
        expected=columns[f"{state}.fingerprint"],
        pending=none,
        quarantined=_equals(columns[f"{state}.status"], Status.QUARANTINED.value),
        stale=none,
        waiting=none,
        upstream_quarantined=none,
        attempt=columns[f"{state}.attempt"],
        reason=columns[f"{state}.reason"],
    )


def _broadcast(artifact: ArtifactPlan, count: int) -> StageRows:
    """An artifact as upstream of rows: one digest for all of them."""
    digest = artifact.current.digest if artifact.current else None
    repeated = pa.array([digest] * count, pa.binary(DIGEST_BYTES))
    blocked = np.full(count, artifact.stale or artifact.waiting)
    none = np.zeros(count, dtype=bool)
    empty = pa.nulls(count)
    return StageRows(repeated, repeated, repeated, none, none, none, blocked, none, empty, empty)


def _take(rows: StageRows, places: np.ndarray) -> StageRows:
    """Rows at `places`; a place of -1 is a photograph that is gone: its dependants wait for a release."""
    gone = places < 0
    indices = pa.array(np.where(gone, 0, places), mask=gone)
    safe = np.where(gone, 0, places)

    def pick(mask: np.ndarray) -> np.ndarray:
        return mask[safe] & ~gone if len(mask) else np.zeros(len(places), dtype=bool)

    return StageRows(
        digest=rows.digest.take(indices),
        stored=rows.stored.take(indices),
        expected=rows.expected.take(indices),
        pending=pick(rows.pending) | gone,
        quarantined=pick(rows.quarantined),
        stale=pick(rows.stale),
        waiting=pick(rows.waiting) | gone,
        upstream_quarantined=pick(rows.upstream_quarantined),
        attempt=rows.attempt.take(indices),
        reason=rows.reason.take(indices),
    )
