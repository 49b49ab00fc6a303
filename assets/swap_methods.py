"""Swaps by all methods together: a recipe's table `swaps`, and DiffFace's, which has a table of its own.

A profile without the stage `diffface_swaps` has no such method; whoever reads swaps is told by `diffface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assets.diffface_config import DIFFFACE, DIFFFACE_SWAPS
from assets.release import METHODS
from assets.stage import Input
from resources.lake.lake import Lake
from resources.lake.recipes import of_recipe
from resources.lake.schema import Status, state_column

PAIR = "pair"
"""Id of a row's pair, without its method."""


def methods_of(*, diffface: bool) -> tuple[str, ...]:
    """Names of the methods that a profile swaps by, in the order in which they are shown."""
    return (*METHODS, DIFFFACE) if diffface else METHODS


def swap_inputs(recipe: str | None, *, diffface: bool) -> tuple[Input, ...]:
    """Inputs of a stage that reads the swaps of a recipe by all methods."""
    return (Input(of_recipe("swaps", recipe)), *((Input(DIFFFACE_SWAPS),) if diffface else ()))


def stored_swaps(
    lake: Lake, recipe: str | None, columns: Sequence[str] = (), *, diffface: bool
) -> list[dict[str, Any]]:
    """One row per pair of a recipe and method: `pair`, `method`, `ok` and the columns.

    DiffFace swaps the pairs of the default recipe's release; of another recipe's pairs those that both have.
    """
    tables = {of_recipe("swaps", recipe): "swaps"} | ({DIFFFACE_SWAPS: DIFFFACE_SWAPS} if diffface else {})
    found: list[dict[str, Any]] = []
    pairs: set[str] = set()
    for table, stage in tables.items():
        status = f"{state_column(stage)}.status"
        named = ("method",) if stage == "swaps" else ()
        for row in lake.table(table).snapshot().scan(["pair_id", *named, *columns, status]).to_pylist():
            method = row.get("method", DIFFFACE)
            pair = row["pair_id"].removesuffix(f"__{method}") if named else row["pair_id"]
            if named:
                pairs.add(pair)
            elif pair not in pairs:
                continue
            kept = {name: row[name] for name in columns}
            found.append({PAIR: pair, "method": method, "ok": row[status] == Status.OK.value, **kept})
    return found
