"""One pass of some row stages over a shard: photographs are read and decoded once for all of them.

The pass goes through the shard in windows of rows. In every window the stages run one after another, upstream
first, on the same decoded pixels; what a stage has just computed is the input of the next one, exactly as it
will be read from the lake. So memory is bounded by a window, and a row whose upstream came out as before is
not computed again, as if the stages had run one at a time. Nothing is written here: `runner` commits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from assets.batches import (
    IMAGE_COLUMN,
    BatchLimits,
    column_values,
    compute_batch,
    decode_photos,
    read_inputs,
    to_arrow,
)
from assets.planner import Planner
from assets.stage import RowModel, RowOutcome, RowStage
from resources.lake.digest import imported_fingerprint, quarantine_digest, row_digest
from resources.lake.schema import FACES_STAGE
from resources.photos.reasons import Reason, RowError

WINDOW_ROWS = 128
"""Rows of a window, unless a stage that reads photographs takes larger batches."""

WINDOW_BYTES = 256 * 2**20
"""Decoded pixels of a window never exceed this, unless by a single photograph."""


@dataclass(frozen=True)
class ComputedRow:
    """A computed row waiting for its commit: it is valid only for this fingerprint."""

    fingerprint: bytes
    outcome: RowOutcome
    digest: bytes
    attempt: int


@dataclass(frozen=True)
class Batch:
    """Rows of one stage that are about to be computed together."""

    stage: str
    row_ids: tuple[int, ...]


@dataclass
class _RowStates:
    """State of one stage in a window, kept up to date while rows are computed; one entry per row."""

    digests: list[bytes | None]
    blocked: np.ndarray
    quarantined: np.ndarray


@dataclass
class _Due:
    """What a stage has to compute in a window, one entry per row of the window."""

    ready: np.ndarray
    upstream_quarantined: np.ndarray
    expected: list[bytes]
    stored: list[bytes | None]
    attempts: list[int | None]


class ShardPass:
    """Computes what is stale at one pinned version, until all is done or a commit is due.

    `wished` names rows (ids) that are computed though they are fresh, `within` the only rows that are looked
    at (None: all but those in `without`). `done` holds the results, by stage and row id, `seconds` the time
    each stage took and `model_seconds` what of it its model took, and `running` names the stage that is or
    was last at work.

    Stages with an input from another table or from an artifact must be alone in their pass (`fused_groups`).
    """

    def __init__(
        self,
        planner: Planner,
        stages: Sequence[RowStage],
        shard: str,
        wished: Mapping[str, Collection[int]],
        model_of: Callable[[RowStage], RowModel],
        on_rows: Callable[[str, int], None],
        limits: BatchLimits | None = None,
        within: Collection[int] | None = None,
        without: Collection[int] = (),
    ) -> None:
        self.planner, self.stages, self.shard = planner, stages, shard
        self.limits = limits or BatchLimits()
        self.table = planner.table(stages[0].table, shard)
        self.done: dict[str, dict[int, ComputedRow]] = {stage.name: {} for stage in stages}
        self.seconds: dict[str, float] = defaultdict(float)
        self.model_seconds: dict[str, float] = defaultdict(float)
        self.running = ""
        self.model_of, self.on_rows = model_of, on_rows
        self.wished = {stage.name: self._are(wished.get(stage.name, ())) for stage in stages}
        self._open = ~self._are(without) if within is None else self._are(within) & ~self._are(without)
        self._failures: dict[str, list[RowError | None]] = defaultdict(list)

    def run(self, seconds: float) -> None:
        """Compute rows until they run out, or until `seconds` have passed and a batch is finished.

        Raises StageFault; `done` then holds what was computed before.
        """
        for _ in self.batches(seconds):
            pass

    def batches(self, seconds: float) -> Iterator[Batch]:
        """`run`, batch by batch: each is named before it is computed."""
        deadline = time.monotonic() + seconds
        for positions in self._windows():
            window = _Window(self, positions)
            for stage in self.stages:
                self.running, started = stage.name, time.monotonic()
                in_time = True
                for places in window.ready(stage):
                    row_ids = self.table.row_ids[positions[places]]
                    yield Batch(stage.name, tuple(row_ids.tolist()))
                    window.compute(stage, places)
                    self.on_rows(stage.name, len(places))
                    in_time = time.monotonic() <= deadline
                    if not in_time:
                        break
                self.seconds[stage.name] += time.monotonic() - started
                if not in_time:
                    return

    def _are(self, row_ids: Collection[int]) -> np.ndarray:
        """Which rows of the shard these are."""
        return np.isin(self.table.row_ids, np.fromiter(row_ids, np.int64))

    def failures(self, stage: RowStage) -> list[RowError | None]:
        """The outcomes of a stage's rows so far, for `compute_batch`."""
        return self._failures[stage.name]

    def _windows(self) -> Iterator[np.ndarray]:
        """Positions of rows in which any stage has work, some at a time."""
        found = np.zeros(len(self.table), dtype=bool)
        for stage in self.stages:
            found |= self.table.stages[stage.name].stale | self.wished[stage.name]
        positions = np.flatnonzero(found & self._open)
        readers = [stage for stage in self.stages if _reads_photo(stage)]
        limit = max([WINDOW_ROWS, *(stage.batch_size for stage in readers or self.stages)])
        sizes = self._pixel_bytes(positions) if readers else np.zeros(len(positions), np.int64)
        start, held = 0, 0
        for index, size in enumerate(sizes.tolist()):
            if index > start and (index - start == limit or held + size > WINDOW_BYTES):
                yield positions[start:index]
                start, held = index, 0
            held += size
        if start < len(positions):
            yield positions[start:]

    def _pixel_bytes(self, positions: np.ndarray) -> np.ndarray:
        if not len(positions):
            return np.zeros(0, np.int64)
        sides = self.table.snapshot.scan(["width", "height"], shard=self.shard)
        width, height = (
            np.asarray(sides[name].fill_null(0)).astype(np.int64) for name in ("width", "height")
        )
        return (3 * width * height)[positions]


class _Window:
    """Some rows of a shard: their pixels, and what this pass has computed of them."""

    def __init__(self, parent: ShardPass, positions: np.ndarray) -> None:
        self.parent, self.table, self.positions = parent, parent.table, positions
        self.photos: dict[int, np.ndarray | RowError] = {}
        self.values: dict[str, dict[int, dict[str, Any]]] = {}
        self.states: dict[str, _RowStates] = {}
        self.due: dict[str, _Due] = {}
        self.own = {stage.name for stage in parent.stages}

    def ready(self, stage: RowStage) -> Iterator[np.ndarray]:
        """Places of the rows that a stage has to compute, batch by batch, each computed before the next."""
        self.due[stage.name] = due = self._due(stage)
        places = np.flatnonzero(due.ready)
        if _reads_photo(stage):
            self._load_photos(places[~due.upstream_quarantined[places]])
        start = 0
        while start < len(places):
            size = self.parent.limits.size(stage)
            yield places[start : start + size]
            start += size

    def compute(self, stage: RowStage, batch: np.ndarray) -> None:
        """Compute a batch that `ready` named."""
        due, states = self.due[stage.name], self._state(stage.name)
        blocked = due.upstream_quarantined[batch]
        upstream = RowError(Reason.UPSTREAM, "an input of this row is quarantined")
        outcomes: dict[int, RowOutcome] = dict.fromkeys(batch[blocked].tolist(), upstream)
        open_places = batch[~blocked]
        if len(open_places):
            model = self.parent.model_of(stage)
            inputs = self._inputs(stage, open_places.tolist())
            started = time.monotonic()
            computed = compute_batch(stage, model, inputs, self.parent.failures(stage), self.parent.limits)
            self.parent.model_seconds[stage.name] += time.monotonic() - started
            outcomes |= dict(zip(open_places.tolist(), computed, strict=True))
        for place, outcome in outcomes.items():
            failed = isinstance(outcome, RowError)
            digest = (
                quarantine_digest(outcome.reason.value)
                if isinstance(outcome, RowError)
                else row_digest(outcome, stage.outputs)
            )
            again = due.stored[place] == due.expected[place]
            attempt = (due.attempts[place] or 0) + 1 if again else 1
            row_id = int(self.table.row_ids[self.positions[place]])
            row = ComputedRow(due.expected[place], outcome, digest, attempt)
            self.parent.done[stage.name][row_id] = row
            states.digests[place] = digest
            states.quarantined[place] = failed
            states.blocked[place] = False
        self._remember(stage, outcomes)

    def _remember(self, stage: RowStage, outcomes: Mapping[int, RowOutcome]) -> None:
        """Keep what the following stages read, as they would read it from the lake."""
        wanted = {
            column
            for other in self.parent.stages
            for item in other.inputs
            if item.stage == stage.name
            for column in item.columns
        }
        good = {place: value for place, value in outcomes.items() if not isinstance(value, RowError)}
        kept = self.values.setdefault(stage.name, {})
        kept.update({place: {} for place in good})
        for column in stage.outputs:
            if column.name in wanted:
                stored = to_arrow([value[column.name] for value in good.values()], column.type)
                for place, value in zip(good, column_values(pa.chunked_array([stored])), strict=True):
                    kept[place][column.name] = value

    def _inputs(self, stage: RowStage, places: list[int]) -> list[dict[str, Any] | RowError]:
        """Input values of rows: pixels and fresh results from here, the rest from the lake."""
        fresh = {
            column: self.values[item.stage]
            for item in stage.inputs
            if item.via is None and item.stage in self.values
            for column in item.columns
        }
        here = {column for column, rows in fresh.items() if all(place in rows for place in places)}
        with_photo = _reads_photo(stage)
        if with_photo:
            here.add(IMAGE_COLUMN)
        rows = read_inputs(self.parent.planner, stage, self.table, self.positions[places], known=here)
        inputs: list[dict[str, Any] | RowError] = []
        for place, row in zip(places, rows, strict=True):
            if not isinstance(row, RowError):
                row |= {name: known[place][name] for name, known in fresh.items() if place in known}
                photo = self.photos[place] if with_photo else None
                if isinstance(photo, RowError):
                    row = photo
                elif photo is not None:
                    row[IMAGE_COLUMN] = photo
            inputs.append(row)
        return inputs

    def _load_photos(self, places: np.ndarray) -> None:
        """Read and decode the photographs that no stage of this pass has needed so far."""
        missing = [place for place in places.tolist() if place not in self.photos]
        if missing:
            row_ids = self.table.row_ids[self.positions[missing]].tolist()
            read = self.table.snapshot.read_table(row_ids, [IMAGE_COLUMN])
            self.photos |= zip(missing, decode_photos(read[IMAGE_COLUMN].to_pylist()), strict=True)

    def _due(self, stage: RowStage) -> _Due:
        """What is to compute today, and from what: today's inputs are those that this pass has made."""
        rows = self.table.stages[stage.name]
        indices = pa.array(self.positions)
        stored = rows.stored.take(indices).to_pylist()
        attempts = rows.attempt.take(indices).to_pylist()
        wished = self.parent.wished[stage.name][self.positions]
        if not self.own.intersection(item.stage for item in stage.inputs):
            expected = rows.expected.take(indices).to_pylist()
            stale, waiting = rows.stale[self.positions] | wished, rows.waiting[self.positions]
            upstream_quarantined = rows.upstream_quarantined[self.positions]
        else:
            upstream = [self._state(item.stage) for item in stage.inputs]
            digests = [self._state(item.stage).digests for item in stage.tracked]
            expected = [
                b"" if None in parts else stage.prefix + b"".join(part or b"" for part in parts)
                for parts in zip(*digests, strict=True)
            ]
            differs = [
                old not in (new, kept)
                for old, new, kept in zip(stored, expected, self._imported(), strict=True)
            ]
            stale = np.array(differs, dtype=bool) | wished
            waiting = np.logical_or.reduce([state.blocked for state in upstream])
            upstream_quarantined = np.logical_or.reduce([state.quarantined for state in upstream])
        self._state(stage.name).blocked = stale | waiting
        return _Due(stale & ~waiting, upstream_quarantined, expected, stored, attempts)

    def _imported(self) -> list[bytes]:
        """Fingerprint that each row's result has if it was imported for today's photograph."""
        if FACES_STAGE not in self.table.stages:
            return [b""] * len(self.positions)
        return [imported_fingerprint(digest or b"") for digest in self._state(FACES_STAGE).digests]

    def _state(self, stage: str) -> _RowStates:
        """A stage's state in this window: as planned, and as computed since."""
        if stage not in self.states:
            rows = self.table.stages[stage]
            self.states[stage] = _RowStates(
                digests=rows.digest.take(pa.array(self.positions)).to_pylist(),
                blocked=(rows.stale | rows.waiting)[self.positions],
                quarantined=rows.quarantined[self.positions].copy(),
            )
        return self.states[stage]


def _reads_photo(stage: RowStage) -> bool:
    return any(item.via is None and IMAGE_COLUMN in item.columns for item in stage.inputs)
