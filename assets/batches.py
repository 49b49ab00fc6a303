"""One batch of a row stage: inputs read and decoded once, the model called, its answers checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from assets.planner import Planner, TablePlan
from assets.stage import ArtifactStage, Input, Row, RowModel, RowOutcome, RowStage, StageGraph
from resources.compute.memory import free_device_memory, is_out_of_memory
from resources.lake.schema import FACES_STAGE
from resources.photos.decoding import decode_upright
from resources.photos.reasons import Reason, RowError

IMAGE_COLUMN = "image"
ALIKE_FAILURES = 8
"""When this many first rows of a stage all fail with the same error, the code is at fault, not the rows."""

CODE_FAULTS = (ImportError, NameError, AttributeError, TypeError, SyntaxError, NotImplementedError)
"""Errors that no photograph can cause: they stop the stage at once."""


class StageFault(RuntimeError):
    """The stage's code or environment is wrong. Nothing was marked quarantined because of it."""


@dataclass
class BatchLimits:
    """How many rows at a time fit into the device's memory, learnt while a run goes on.

    `lowered` holds the stages that did not fit with their own batch size; `report` is told of it.
    """

    report: Callable[[str], None] = print
    lowered: dict[str, int] = field(default_factory=dict)

    def size(self, stage: RowStage) -> int:
        """Rows of the stage's next batch."""
        return min(stage.batch_size, self.lowered.get(stage.name, stage.batch_size))

    def did_not_fit(self, stage: RowStage, rows: int) -> None:
        """Halve what did not fit, for the rest of the run."""
        if rows > 1 and rows // 2 < self.size(stage):
            self.lowered[stage.name] = rows // 2
            self.report(
                f"{stage.name}: out of memory with {rows} rows at a time; going on with {rows // 2} for the "
                "rest of this run (a smaller batch size in the profile avoids the attempt)"
            )


def read_inputs(
    planner: Planner,
    stage: RowStage,
    table: TablePlan,
    positions: np.ndarray,
    also: Sequence[str] = (),
    known: Collection[str] = (),
) -> list[dict[str, Any] | RowError]:
    """Input values of the rows at `positions`, pictures decoded upright.

    Columns read through a foreign key are named `<via>.<column>`, e.g. `target_image_id.latents`. A photo
    that cannot be decoded gives its reason instead. `also` names further columns of the rows themselves, and
    `known` those that the caller has already: they are not read.
    """
    values: list[dict[str, Any]] = [{table.snapshot.table.key: table.keys[place]} for place in positions]
    own = [item for item in stage.inputs if item.via is None and not is_artifact(planner.graph, item)]
    columns = sorted({column for item in own for column in item.columns} - set(known))
    foreign = {item.via for item in stage.inputs if item.via}
    extra = sorted({*foreign, *stage.row_columns, *also} - set(columns) - set(known))
    if columns or extra:
        read = table.snapshot.read_table(table.row_ids[positions].tolist(), [*columns, *extra])
        merge_columns(values, read, {name: name for name in [*columns, *extra]})
    for via in sorted(foreign):
        wanted = sorted({column for item in stage.inputs if item.via == via for column in item.columns})
        faces = planner.table("faces")
        keys = [row[via] for row in values]
        row_ids = [int(faces.row_ids[faces.index[key]]) for key in keys]
        unique = sorted(set(row_ids))
        read = faces.snapshot.read_table(unique, wanted)
        places = {row_id: place for place, row_id in enumerate(unique)}
        spread = read.take(pa.array([places[row_id] for row_id in row_ids]))
        merge_columns(values, spread, {name: f"{via}.{name}" for name in wanted})
    return [_decode(row) for row in values]


def compute_batch(
    stage: RowStage,
    model: RowModel,
    inputs: Sequence[Row | RowError],
    failures: list[RowError | None],
    limits: BatchLimits,
) -> list[RowOutcome]:
    """Outcomes of a batch, in order. A row that breaks the model is found by running rows singly.

    So is what does not fit into the device's memory, and `limits` keeps the batch size that did. `failures`
    remembers the first outcomes of this run: None for a success.

    Raises StageFault for code faults and when the first rows all fail alike.
    """
    rows = [row for row in inputs if not isinstance(row, RowError)]
    computed = iter(_call(stage, model, rows, limits))
    outcomes = [row if isinstance(row, RowError) else _checked(stage, next(computed)) for row in inputs]
    for outcome in outcomes:
        broken = isinstance(outcome, RowError) and outcome.reason in (
            Reason.MODEL_ERROR,
            Reason.OUT_OF_MEMORY,
        )
        failures.append(outcome if broken and isinstance(outcome, RowError) else None)
    first = failures[:ALIKE_FAILURES]
    # how much memory there was differs from one time to the next
    alike = {
        failure.detail if failure.reason == Reason.MODEL_ERROR else failure.reason.meaning
        for failure in first
        if failure is not None
    }
    if len(first) == ALIKE_FAILURES and None not in first and len(alike) == 1:
        raise StageFault(
            f"{stage.name}: the first {ALIKE_FAILURES} rows all failed with the same error, so the code or "
            f"its set-up is at fault: {alike.pop()}. No row was quarantined; mend it and run again."
        )
    return outcomes


def _call(stage: RowStage, model: RowModel, rows: Sequence[Row], limits: BatchLimits) -> list[RowOutcome]:
    if not rows:
        return []
    try:
        outcomes = list(model(rows))
    except CODE_FAULTS as error:
        raise StageFault(f"{stage.name}: {type(error).__name__}: {error}") from error
    except Exception as error:
        reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.MODEL_ERROR
        failure = RowError(reason, f"{type(error).__name__}: {error}")
    else:
        if len(outcomes) != len(rows):
            raise StageFault(f"{stage.name}: {len(rows)} rows went in, {len(outcomes)} outcomes came out")
        return outcomes
    # only here, where the error and all that its frames held are gone, can their memory be given back
    if failure.reason == Reason.OUT_OF_MEMORY:
        free_device_memory()
        limits.did_not_fit(stage, len(rows))
    if len(rows) == 1:
        return [failure]
    half = len(rows) // 2
    return _call(stage, model, rows[:half], limits) + _call(stage, model, rows[half:], limits)


def _checked(stage: RowStage, outcome: RowOutcome) -> RowOutcome:
    """The outcome if it fits the declared columns; values that are not finite quarantine the row."""
    if isinstance(outcome, RowError):
        return outcome
    missing = [column.name for column in stage.outputs if column.name not in outcome]
    surplus = sorted(set(outcome) - {column.name for column in stage.outputs})
    if missing or surplus:
        raise StageFault(f"{stage.name}: outcome lacks {missing} and has undeclared {surplus}")
    for column in stage.outputs:
        value = outcome[column.name]
        if pa.types.is_fixed_size_list(column.type):
            size = np.asarray(value).size
            if size != column.type.list_size:
                raise StageFault(
                    f"{stage.name}: {column.name} has {size} values, not {column.type.list_size}"
                )
        if column.quantum is not None and value is not None and not np.isfinite(np.asarray(value)).all():
            return RowError(Reason.NON_FINITE, f"{column.name} holds a value that is not finite")
    return outcome


def is_artifact(graph: StageGraph, item: Input) -> bool:
    """Whether an input is an artifact, not rows."""
    return item.stage != FACES_STAGE and isinstance(graph[item.stage], ArtifactStage)


def merge_columns(values: Sequence[dict[str, Any]], read: pa.Table, names: dict[str, str]) -> None:
    """Put columns of a table into rows of the same order, under other names; lists become numpy arrays."""
    for column, name in names.items():
        for row, value in zip(values, column_values(read[column]), strict=True):
            row[name] = value


def column_values(column: pa.ChunkedArray) -> list[Any]:
    """Column values as Python objects; fixed-size lists become numpy arrays, with no Python list between."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_pylist()
    array = column.combine_chunks()
    width = column.type.list_size
    flat = array.values.to_numpy(zero_copy_only=False)
    shaped = flat[array.offset * width : (array.offset + len(array)) * width].reshape(len(array), width)
    return [
        shaped[index].copy() if valid else None for index, valid in enumerate(array.is_valid().to_pylist())
    ]


def to_arrow(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """Python or numpy values as an Arrow array; fixed-size lists take flat or shaped numpy arrays."""
    if pa.types.is_fixed_size_list(data_type):
        dtype = data_type.value_type.to_pandas_dtype()
        flat = [None if value is None else np.asarray(value, dtype=dtype).ravel() for value in values]
        return pa.array(flat, data_type)
    return pa.array(list(values), data_type)


def decode_photos(files: Sequence[bytes]) -> list[np.ndarray | RowError]:
    """Upright RGB pixels of each file, read-only because several stages share them, or why there are none."""
    photos: list[np.ndarray | RowError] = []
    for data in files:
        try:
            pixels = decode_upright(data)
        except RowError as error:
            photos.append(error)
        else:
            pixels.flags.writeable = False
            photos.append(pixels)
    return photos


def _decode(row: dict[str, Any]) -> dict[str, Any] | RowError:
    for name in [key for key in row if key == IMAGE_COLUMN or key.endswith("." + IMAGE_COLUMN)]:
        try:
            row[name] = decode_upright(row[name])
        except RowError as error:
            return error
    return row
