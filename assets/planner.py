"""The one planner: what is stale, what waits, and why. A pure function of the lake.

It pins every table once, loads no model and reads no picture. The schedule, the sensor, every asset's own
guard and the command line all ask it, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from assets.plan_rows import (
    STATE_PARTS,
    Fingerprints,
    StageRows,
    TableBuilder,
    TablePlan,
    Values,
    broadcast,
    compact,
    equals,
    ingested_rows,
    is_quarantined,
    state_parts,
    taken,
    whole,
)
from assets.stage import ArtifactStage, Input, RowStage, Stage, StageGraph
from resources.lake.digest import (
    changed_parts,
    combine_fingerprints,
    digest_bytes,
    explain_difference,
    imported_rows,
)
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import DIGEST_BYTES, FACES_STAGE, state_column
from resources.lake.table import Snapshot
from resources.photos.reasons import Reason

__all__ = ["ArtifactPlan", "Planner", "Retry", "StagePlan", "StageRows", "TablePlan", "explain_rows"]

NEVER_COMPUTED = "never_computed"
FORCED = "forced"
UNFINISHED = "unfinished"
RETRIED = "retried"


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


@dataclass(frozen=True)
class Retry:
    """Quarantined rows that are to be computed again: those with one reason, or (None) with any.

    Rows quarantined because of an upstream are never among them: they follow when that one succeeds.
    """

    reason: str | None = None

    def rows(self, quarantined: np.ndarray, reason: pa.Array) -> np.ndarray:
        """Which of the rows these are."""
        if self.reason is not None:
            return quarantined & equals(reason, self.reason)
        return quarantined & ~equals(reason, Reason.UPSTREAM.value)


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
    """Plans over one pinned state of a lake.

    `forced` stages count all their rows as stale, `retried` stages the quarantined rows that are named. A
    table that is still at the version that an `earlier` planner of the same lake and graph read is not read
    again: planning one shard of pairs after another reads the photographs once.
    """

    def __init__(
        self,
        lake: Lake,
        graph: StageGraph,
        forced: Collection[str] = (),
        retried: Mapping[str, Retry] | None = None,
        earlier: Planner | None = None,
    ) -> None:
        self.lake, self.graph, self.forced = lake, graph, frozenset(forced)
        self.retried = dict(retried or {})
        self._snapshots: dict[str, Snapshot] = {}
        self._tables: dict[tuple[str, str | None], TablePlan] = {}
        self._artifacts: dict[str, ArtifactPlan] = {}
        for name, table in ({} if earlier is None else earlier._reusable()).items():
            if self._is_plain(name) and self.snapshot(name).version == table.snapshot.version:
                self._tables[name, None] = table

    def snapshot(self, table: str) -> Snapshot:
        """The table's version that this plan is about."""
        if table not in self._snapshots:
            self._snapshots[table] = self.lake.table(table).snapshot()
        return self._snapshots[table]

    def _reusable(self) -> dict[str, TablePlan]:
        """Whole tables that were read and whose plan follows from their own rows alone."""
        return {
            name: table for (name, shard), table in self._tables.items() if not shard and self._is_plain(name)
        }

    def _is_plain(self, table: str) -> bool:
        """Whether a table's plan depends on nothing but its rows: no other table, no artifact, no wish."""
        stages = self.graph.row_stages(table)
        wished = self.forced.union(self.retried).intersection(stage.name for stage in stages)
        known = {FACES_STAGE, *(stage.name for stage in stages)}
        return not wished and all(
            item.via is None and item.stage in known for stage in stages for item in stage.inputs
        )

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
            shards=sorted(table.shard_counts(rows.stale)),
            why=explain_rows(stage, rows, stage.name in self.forced, stage.name in self.retried),
        )

    def _plan_table(self, name: str, shard: str | None) -> None:
        snapshot = self.snapshot(name)
        key, table = (name, shard), None
        for stages in _passes(self.graph, name):
            owners = [*([FACES_STAGE] if name == "faces" and table is None else [])]
            owners += [stage.name for stage in stages]
            foreign = sorted({item.via for stage in stages for item in stage.inputs if item.via})
            state = [f"{state_column(owner)}.{part}" for owner in owners for part in STATE_PARTS]
            builder, start = TableBuilder(snapshot), 0
            for chunk in snapshot.scan_chunks([snapshot.table.key, "shard", *foreign, *state], shard=shard):
                known = {} if table is None else table.slice(start, chunk.num_rows)
                found = {owner: ingested_rows(chunk, owner) for owner in owners if owner == FACES_STAGE}
                for stage in stages:
                    upstream = [self._upstream_rows(item, known | found, chunk) for item in stage.inputs]
                    photographs = (known | found)[FACES_STAGE].digest if name == "faces" else None
                    found[stage.name] = self._plan_rows(
                        stage, upstream, chunk, photographs, keep=shard is not None
                    )
                if shard is None:
                    found = {owner: compact(rows) for owner, rows in found.items()}
                builder.add(chunk, found)
                start += chunk.num_rows
            planned = builder.build()
            if table is None:
                # known before all its stages are: an artifact made from it may be an input of a later one
                table = self._tables[key] = planned
            else:
                table.stages.update(planned.stages)

    def _upstream_rows(self, item: Input, found: dict[str, StageRows], chunk: pa.Table) -> StageRows:
        """State of an input, one entry per row of the chunk that needs it."""
        if item.stage != FACES_STAGE and isinstance(self.graph[item.stage], ArtifactStage):
            plan = self.artifact(item.stage)
            digest = plan.current.digest if plan.current else None
            return broadcast(digest, plan.stale or plan.waiting, chunk.num_rows)
        if item.via is None:
            return found[item.stage]
        faces = self.table("faces")
        return taken(faces.stages[item.stage], faces.positions(whole(chunk[item.via], pa.string())))

    def _plan_rows(
        self,
        stage: RowStage,
        upstream: list[StageRows],
        chunk: pa.Table,
        photographs: Values | None,
        keep: bool,
    ) -> StageRows:
        """State of one stage in a chunk; `keep` says whether the fingerprints themselves are kept.

        A result imported for today's photograph (`photographs`: digests) counts as made from today's inputs.
        """
        state = state_parts(chunk, stage.name)
        stored = state["fingerprint"]
        tracked = [rows.digest for item, rows in zip(stage.inputs, upstream, strict=True) if item.tracked]
        changed = changed_parts(stored, stage.prefix, tracked)
        if photographs is not None and changed.any():
            changed[imported_rows(stored, whole(photographs, pa.binary(DIGEST_BYTES)))] = 0
        pending = np.asarray(stored.is_null()).astype(bool)
        stale = pending | (changed != 0)
        if stage.name in self.forced:
            stale = np.ones(chunk.num_rows, dtype=bool)
        quarantined = is_quarantined(state["status"])
        if stage.name in self.retried:
            stale = stale | self.retried[stage.name].rows(quarantined, state["reason"])
        none = np.zeros(chunk.num_rows, dtype=bool)
        return StageRows(
            digest=state["digest"],
            pending=pending,
            quarantined=quarantined,
            stale=stale,
            waiting=np.logical_or.reduce([none, *(rows.stale | rows.waiting for rows in upstream)]),
            upstream_quarantined=np.logical_or.reduce([none, *(rows.quarantined for rows in upstream)]),
            changed=changed,
            attempt=state["attempt"],
            reason=state["reason"],
            fingerprints=Fingerprints(stored, combine_fingerprints(stage.prefix, tracked)) if keep else None,
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
            waiting |= bool((rows.stale | rows.waiting).any()) or not len(table)
            # hashing all rows is the dear part: not done for an artifact that waits anyway
            digests.append(b"" if waiting else table.digest(item.stage))
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
        if not why and self.lake.is_unfinished(stage.name):
            stale, why = True, [UNFINISHED]
        return ArtifactPlan(current, expected, stale, waiting, tuple(why))


def _passes(graph: StageGraph, table: str) -> list[list[RowStage]]:
    """A table's stages in the groups that are planned together.

    A stage with an artifact among its inputs starts a new one: it may be made from the stages before.
    """
    passes: list[list[RowStage]] = [[]]
    for stage in graph.row_stages(table):
        upstream = [graph[item.stage] for item in stage.inputs if item.stage != FACES_STAGE]
        if passes[-1] and any(isinstance(item, ArtifactStage) for item in upstream):
            passes.append([])
        passes[-1].append(stage)
    return passes


def explain_rows(
    stage: RowStage, rows: StageRows, forced: bool = False, retried: bool = False
) -> dict[str, int]:
    """Why rows are stale: {"never_computed": 3, "config+input:masks": 1}. Every stale row counts once."""
    if forced:
        return {FORCED: int(rows.stale.sum())} if rows.stale.any() else {}
    why: Counter[str] = Counter()
    never = int((rows.stale & rows.pending).sum())
    if never:
        why[NEVER_COMPUTED] = never
    labels = ["code_version", "config", "weights", *(f"input:{item.label}" for item in stage.tracked)]
    changed = rows.changed[rows.stale & ~rows.pending]
    for value, count in zip(*np.unique(changed, return_counts=True), strict=True):
        names = [label for bit, label in enumerate(labels) if value >> bit & 1]
        unchanged = RETRIED if retried and not value else "inputs_declared"
        why["+".join(names) or unchanged] += int(count)
    return dict(why)
