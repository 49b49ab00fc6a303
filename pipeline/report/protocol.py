"""The report's part on published measures: what `evaluation_protocol` recorded, and what it could not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assets.planner import Planner
from assets.recipe_view import RecipeView
from pipeline.report.wording import METHODS, Method, in_order, method

DIRECTIONS = {"up": "higher is better", "down": "lower is better"}


@dataclass(frozen=True)
class ProtocolColumn:
    """One measure, by whom, in which unit, and whether training saw the network."""

    name: str
    extractor: str
    unit: str
    better: str
    used_in_training: bool


@dataclass(frozen=True)
class ProtocolCell:
    """A value with its 95 % interval, or without one."""

    text: str
    interval: str
    note: str


@dataclass(frozen=True)
class ProtocolRow:
    """One method's values in the order of the columns; None where it was not measured."""

    method: Method
    cells: tuple[ProtocolCell | None, ...]


@dataclass(frozen=True)
class ProtocolPart:
    """The part of the page. `missing` names measures that did not run, with the reason."""

    pairs: int
    columns: tuple[ProtocolColumn, ...]
    rows: tuple[ProtocolRow, ...]
    missing: tuple[tuple[str, str], ...]
    outdated: bool


def protocol_part(planner: Planner, view: RecipeView) -> ProtocolPart | None:
    """What the current `evaluation_protocol` of a recipe shows; None where there is none yet."""
    artifact = planner.lake.current_artifact(view.own("evaluation_protocol"))
    if artifact is None:
        return None
    plan = planner.artifact(artifact.stage)
    scores = artifact.metadata.get("scores", [])
    found = {(row["method"], row["metric"]): row for row in scores}
    measured = dict.fromkeys(row["metric"] for row in scores if row["value"] is not None)
    columns = {name: next(row for row in scores if row["metric"] == name) for name in measured}
    methods = in_order({row["method"] for row in scores}, METHODS) if measured else []
    return ProtocolPart(
        pairs=int(artifact.metadata["pairs"]),
        columns=tuple(
            ProtocolColumn(
                name,
                row["extractor"],
                row["unit"],
                DIRECTIONS.get(row["better"], ""),
                bool(row["used_in_training"]),
            )
            for name, row in columns.items()
        ),
        rows=tuple(
            ProtocolRow(method(key), tuple(_cell(found.get((key, name))) for name in columns))
            for key in methods
        ),
        missing=tuple(
            dict.fromkeys((row["metric"], row["not_measured"]) for row in scores if row["not_measured"])
        ),
        outdated=plan.stale or plan.waiting,
    )


def _cell(row: Mapping[str, Any] | None) -> ProtocolCell | None:
    if row is None or row["value"] is None:
        return None
    low, high = row["low"], row["high"]
    interval = "no interval" if low is None or high is None else f"{low:.3g} to {high:.3g}"
    return ProtocolCell(f"{row['value']:.3g}", interval, row["note"])
