"""`orchard plan --explain`: why one row, shard or stage is stale, down to the input that changed first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from assets.plan_rows import StageRows, TablePlan
from assets.planner import UNFINISHED, ArtifactPlan, Planner, explain_rows
from assets.stage import ArtifactStage, Input, RowStage, Stage, StageGraph
from pipeline.options import UsageError
from resources.lake.digest import IMPORTED_RECIPE, OTHER_PARTS, PART_BYTES, RECIPE_BYTES
from resources.lake.lake import Lake
from resources.lake.schema import DIGEST_BYTES, FACES_STAGE, IMPORTED, state_column
from resources.photos.reasons import Reason

EXAMPLES = 3
"""Rows shown of a stage; one screen is the whole answer."""

SHOWN = 8
"""Hexadecimal characters shown of a digest."""


@dataclass(frozen=True)
class Finding:
    """One stage's state for a row, a shard or the lake, and the sentences that say why."""

    stage: str
    state: str
    why: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return {"stage": self.stage, "state": self.state, "why": self.why}


@dataclass(frozen=True)
class Explanation:
    """What a name means in this lake, and what there is to say about it."""

    name: str
    kind: str
    findings: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """The explanation as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "findings": [finding.as_json() for finding in self.findings],
        }


def explain(lake: Lake, graph: StageGraph, name: str) -> Explanation:
    """Explain the stage, the shard or the row of that name (a stage's name wins over a shard's or a row's).

    Raises UsageError when there is nothing of that name.
    """
    explainer = Explainer(Planner(lake, graph))
    if name == FACES_STAGE or name in graph.names:
        return Explanation(name, "stage", explainer.stage(name))
    for table in graph.tables():
        snapshot = explainer.planner.snapshot(table)
        if name in snapshot.shards():
            return Explanation(name, f"shard of {table}", explainer.shard(table, name))
        if snapshot.find([name], []):
            return Explanation(name, f"row of {table}", explainer.row(table, name))
    raise UsageError(
        f"no stage, shard or row is called {name!r}; stages are {', '.join((FACES_STAGE, *graph.names))}, "
        "a shard is named like shard-00000, a row like its photograph's id or its pair's"
    )


def print_explanation(found: Explanation) -> None:
    """One screen for people."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(found.name)}[/bold] ({found.kind})")
    for finding in found.findings:
        console.print(f"  [bold]{finding.stage}[/bold]: {escape(finding.state)}")
        for sentence in finding.why:
            console.print(f"    {escape(sentence)}")


class Explainer:
    """Looks for causes in one pinned state of a lake."""

    def __init__(self, planner: Planner) -> None:
        self.planner, self.graph = planner, planner.graph

    def stage(self, name: str) -> list[Finding]:
        """A whole stage: counts and reasons, then a few rows in full."""
        if name == FACES_STAGE:
            table = self.planner.table("faces")
            return [self._counts(None, table, table.stages[FACES_STAGE])]
        stage = self.graph[name]
        if isinstance(stage, ArtifactStage):
            return [Finding(name, _artifact_state(self.planner.artifact(name)), self._artifact_causes(stage))]
        assert isinstance(stage, RowStage)  # there is no third kind
        table = self.planner.table(stage.table)
        rows = table.stages[name]
        found = [self._counts(stage, table, rows)]
        concerned = rows.stale | rows.waiting
        shown = (concerned if concerned.any() else rows.quarantined).nonzero()[0][:EXAMPLES]
        for place in shown.tolist():
            key, shard = table.key_values[place].as_py(), table.shard_names[table.shard_codes[place]]
            state, why = self._row(stage, shard, key)
            found.append(Finding(f"row {key} in {shard}", state, why))
        return found

    def shard(self, name: str, shard: str) -> list[Finding]:
        """One shard in every stage of its table."""
        table = self.planner.table(name, shard)
        found = []
        for stage_name, rows in table.stages.items():
            stage = None if stage_name == FACES_STAGE else self.graph[stage_name]
            found.append(self._counts(stage, table, rows))
        return found

    def row(self, name: str, key: str) -> list[Finding]:
        """One row in every stage of its table."""
        shard = self._shard(name, key)
        stages: list[str | RowStage] = [FACES_STAGE] if name == "faces" else []
        stages += self.graph.row_stages(name)
        found = []
        for stage in stages:
            state, why = self._row(stage, shard, key)
            found.append(Finding(stage if isinstance(stage, str) else stage.name, state, why))
        return found

    def _shard(self, table: str, key: str) -> str:
        return self.planner.snapshot(table).find([key], ["shard"])[key]["shard"]

    def _counts(self, stage: Stage | None, table: TablePlan, rows: StageRows) -> Finding:
        quarantined = rows.quarantined & ~rows.stale
        counts = {
            "ok": rows.ok & ~rows.waiting,
            "stale": rows.stale,
            "waiting": rows.waiting,
            "quarantined": quarantined,
        }
        state = ", ".join(f"{int(mask.sum())} {name}" for name, mask in counts.items())
        why = []
        if isinstance(stage, RowStage):
            causes = explain_rows(stage, rows)
            why += [f"stale: {cause} ({count} rows)" for cause, count in sorted(causes.items())]
            imported = self._imported(stage, table)
            why += [f"imported, not computed: {imported} rows"] if imported else []
        chosen = [reason for reason, bad in zip(rows.reason.to_pylist(), quarantined, strict=True) if bad]
        why += [f"quarantined: {reason} ({count} rows)" for reason, count in sorted(Counter(chosen).items())]
        shards = sorted(table.shard_counts(rows.stale))
        if len(table.shard_names) > 1 and shards:
            why.append(
                f"stale rows are in {len(shards)} of {len(table.shard_names)} shards, first {shards[0]}"
            )
        return Finding(stage.name if stage else FACES_STAGE, state, why)

    def _imported(self, stage: RowStage, table: TablePlan) -> int:
        """How many results of a stage were read from files and still stand."""
        column = state_column(stage.name)
        shard = table.shard_names[0] if len(table.shard_names) == 1 else None
        versions = table.snapshot.scan([f"{column}.code_version"], shard=shard).column(0)
        made = np.array([version == IMPORTED for version in versions.to_pylist()], dtype=bool)
        return int((made & ~table.stages[stage.name].stale).sum())

    def _row(
        self, stage: RowStage | str, shard: str, key: str, told: set[tuple[str, str]] | None = None
    ) -> tuple[str, list[str]]:
        """State of one row in one stage, and why, first the row itself and then what it waits for.

        `told` are the rows of upstream stages that were explained before: their causes are not said twice.
        """
        told = set() if told is None else told
        name = stage if isinstance(stage, str) else stage.name
        table_name = "faces" if isinstance(stage, str) else stage.table
        table = self.planner.table(table_name, shard)
        rows, place = table.stages[name], table.index[key]
        column = state_column(name)
        stored = table.snapshot.find([key], [column])[key][column] or {}
        if isinstance(stage, str):
            return ("quarantined", [_quarantine(stored)]) if rows.quarantined[place] else ("fresh", [])
        why = []
        if rows.stale[place]:
            why = self._row_causes(stage, rows, place, stored)
        elif stored["code_version"] == IMPORTED:
            why = [stored["detail"]]
        quarantined = bool(rows.quarantined[place])
        if quarantined:
            why.append(_quarantine(stored))
        if rows.waiting[place] or (quarantined and stored["reason"] == Reason.UPSTREAM.value):
            why += self._upstream_causes(stage, table, place, told)
        states = [
            word
            for word, holds in (
                ("stale", rows.stale[place]),
                ("waiting", rows.waiting[place]),
                ("quarantined", quarantined),
            )
            if holds
        ]
        return " and ".join(states) or "fresh", why

    def _row_causes(self, stage: RowStage, rows: StageRows, place: int, stored: dict[str, Any]) -> list[str]:
        """Which parts of a stale row's fingerprint changed, with both values."""
        old, new = rows.stored[place].as_py(), rows.expected[place].as_py()
        if old is None:
            return ["never computed"]
        bits = int(rows.changed[place])
        why = []
        if old.startswith(IMPORTED_RECIPE):
            return [f"{stored['detail']}; its photograph has changed since"]
        if bits & 1:
            why.append(f"code_version changed: {stored['code_version']!r} then, {stage.code_version!r} today")
        if bits & 2:
            why.append(f"config changed: {_part(old, 1)} then, {_part(stage.prefix, 1)} today")
        if bits & 4:
            why.append(f"weights changed: {_part(old, 2)} then, {_part(stage.prefix, 2)} today")
        for index, item in enumerate(stage.tracked):
            if bits >> (3 + index) & 1:
                today = "none" if new is None else _upstream(new, index)
                why.append(f"input {item.label} changed: digest {_upstream(old, index)} then, {today} today")
        if bits & int(OTHER_PARTS):
            why.append("the stage was computed from another number of inputs than it declares today")
        return why

    def _upstream_causes(
        self, stage: RowStage, table: TablePlan, place: int, told: set[tuple[str, str]]
    ) -> list[str]:
        """What a row waits for or is quarantined by, as a chain up to the first cause."""
        why = []
        for item in stage.inputs:
            upstream = self._input(item)
            if isinstance(upstream, ArtifactStage):
                plan = self.planner.artifact(upstream.name)
                if plan.stale or plan.waiting:
                    known = (upstream.name, "") in told
                    told.add((upstream.name, ""))
                    causes = [] if known else self._artifact_causes(upstream)
                    why.append(f"{upstream.name} is {_artifact_state(plan)}")
                    why += [f"  {sentence}" for sentence in causes]
                continue
            key, shard = table.keys[place], table.shards[place]
            if item.via is not None:
                key = table.snapshot.find([key], [item.via])[key][item.via]
                if not self.planner.snapshot("faces").find([key], []):
                    why.append(f"the photograph {key} ({item.via}) is gone; the next release drops this pair")
                    continue
                shard = self._shard("faces", key)
            state, causes = self._row(upstream, shard, key, told)
            if state != "fresh":
                where = "" if item.via is None else f" for {key}"
                known = (item.stage, key) in told
                told.add((item.stage, key))
                why.append(f"{item.stage}{where} is {state}{', as told above' if known else ''}")
                why += [] if known else [f"  {sentence}" for sentence in causes]
        return why

    def _artifact_causes(self, stage: ArtifactStage) -> list[str]:
        """Why an artifact is stale or waits."""
        plan = self.planner.artifact(stage.name)
        why = []
        if plan.current is None:
            why.append("never made")
        elif plan.stale and plan.expected is not None:
            why += _artifact_changes(stage, plan)
        if not plan.waiting:
            return why
        for item in stage.tracked:
            upstream = self._input(item)
            if isinstance(upstream, ArtifactStage):
                found = self.planner.artifact(upstream.name)
                if found.stale or found.waiting:
                    why.append(f"{upstream.name} is {_artifact_state(found)}")
                    why += [f"  {sentence}" for sentence in self._artifact_causes(upstream)]
            elif isinstance(upstream, RowStage):
                rows = self.planner.stage_rows(upstream)
                if (rows.stale | rows.waiting).any() or not len(rows.stale):
                    counts = f"{int(rows.stale.sum())} stale and {int(rows.waiting.sum())} waiting rows"
                    causes = ", ".join(self._first_causes(upstream)) or "its table is empty"
                    why.append(f"{upstream.name} has {counts}: {causes}")
        return why

    def _first_causes(self, stage: RowStage) -> list[str]:
        """Reasons of the stale rows of a stage and of the row stages it is made from."""
        causes: dict[str, None] = {}
        for item in stage.inputs:
            upstream = self._input(item)
            if isinstance(upstream, RowStage):
                causes |= dict.fromkeys(self._first_causes(upstream))
        for cause, count in sorted(explain_rows(stage, self.planner.stage_rows(stage)).items()):
            causes[f"{stage.name} {cause} ({count})"] = None
        return list(causes)

    def _input(self, item: Input) -> RowStage | ArtifactStage | str:
        if item.stage == FACES_STAGE:
            return FACES_STAGE
        found = self.graph[item.stage]
        assert isinstance(found, RowStage | ArtifactStage)  # there is no third kind
        return found


def _artifact_changes(stage: ArtifactStage, plan: ArtifactPlan) -> list[str]:
    assert plan.current is not None  # the caller looked
    assert plan.expected is not None
    old, new, why = plan.current.fingerprint, plan.expected, []
    labels = {f"input:{item.label}": index for index, item in enumerate(stage.tracked)}
    for part in plan.why:
        if part == "code_version":
            then = plan.current.code_version
            why.append(f"code_version changed: {then!r} then, {stage.code_version!r} today")
        elif part in ("config", "weights"):
            index = ("code_version", "config", "weights").index(part)
            why.append(f"{part} changed: {_part(old, index)} then, {_part(new, index)} today")
        elif part in labels:
            then, today = _upstream(old, labels[part]), _upstream(new, labels[part])
            why.append(f"input {part[6:]} changed: digest {then} then, {today} today")
        elif part == "input:extra_content":
            why.append("what is read besides other stages (consent, pinned pairs, truths) changed")
        elif part == UNFINISHED:
            why.append("another one was begun and not finished: its lists of pairs may be in the tables")
        else:
            why.append(part)
    return why


def _artifact_state(plan: ArtifactPlan) -> str:
    words = [word for word, holds in (("stale", plan.stale), ("waiting", plan.waiting)) if holds]
    return " and ".join(words) or "fresh"


def _quarantine(stored: dict[str, Any]) -> str:
    detail = f": {stored['detail']}" if stored.get("detail") else ""
    return f"quarantined for {stored['reason']}{detail} (attempt {stored['attempt']})"


def _part(fingerprint: bytes, index: int) -> str:
    return fingerprint[index * PART_BYTES : (index + 1) * PART_BYTES].hex()[:SHOWN]


def _upstream(fingerprint: bytes, index: int) -> str:
    start = RECIPE_BYTES + index * DIGEST_BYTES
    return fingerprint[start : start + DIGEST_BYTES].hex()[:SHOWN] or "none"
