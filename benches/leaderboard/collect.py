"""From values of all seeds to the result file, and rows of other programs into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.classical_swaps import MESH_WARP
from assets.diffface_config import DIFFFACE
from assets.evaluation import CODEC_CEILING, COPY_TARGET
from benches.leaderboard.answers import answers
from benches.leaderboard.figures import write_grid
from benches.leaderboard.plan import ENTRANTS, Plan
from benches.leaderboard.results import (
    OVERALL,
    Benchmark,
    Figure,
    Leaderboard,
    Row,
    attribute_units,
    figure,
    overall,
    pooled,
    rounded,
    unit_row,
)
from benches.leaderboard.values import GRID_FILE, Key, Measured, SeedRecord, read_all, seed_folder
from models.worlds.benchmark import BENCHMARK_SEED, BENCHMARK_VERSION, benchmark_hash, benchmark_pairs
from models.worlds.world import WORLD_VERSION

ORDER = (COPY_TARGET, CODEC_CEILING, MESH_WARP, DIFFFACE)
RESULTS_OF_BENCH = "results"


def collect(work: Path, records: dict[int, SeedRecord], previous: Leaderboard | None) -> Leaderboard:
    """Pool finished seeds; shipped and added rows of the previous file stay.

    Raises ValueError when there is no finished seed, or seeds differ in plan, base or embedder.
    """
    if not records:
        raise ValueError(f"no seed is finished in {work}; `python -m benches.leaderboard run` trains them")
    first = next(iter(records.values()))
    for record in records.values():
        for name in ("plan", "base_sha256", "embedder_sha256", "recommended_scale", "left_out"):
            if getattr(record, name) != getattr(first, name):
                raise ValueError(
                    f"seeds {first.seed} and {record.seed} differ in their {name}; run both anew"
                )
    plan, seeds = first.plan, tuple(records)
    rows_by_seed = {seed: read_all(seed_folder(work, seed) / "values") for seed in seeds}
    stacked = pooled(rows_by_seed)
    units = attribute_units(stacked[unit_row(first.recommended_scale)][1])
    command = run_command(plan, seeds)
    rows = tuple(
        Row(
            name=key.name,
            method=key.method,
            conditioning=key.conditioning,
            id_guidance_scale=key.scale,
            seeds=of_seeds,
            pairs=next(iter(values.values())).shape[1],
            compared_at=first.image_size,
            metrics=figures(values, units),
            command=command,
        )
        for key, (of_seeds, values) in sorted(stacked.items(), key=lambda item: place(item[0]))
    )
    pairs = benchmark_pairs(plan.pairs)
    return Leaderboard(
        date=datetime.now(UTC).date().isoformat(),
        benchmark=Benchmark(
            hash=benchmark_hash(pairs),
            version=BENCHMARK_VERSION,
            world_version=WORLD_VERSION,
            seed=BENCHMARK_SEED,
            pairs=plan.pairs,
            measured=rows[0].pairs,
            left_out=first.left_out,
        ),
        base_file_sha256=first.base_file_sha256,
        embedder_sha256=first.embedder_sha256,
        recommended_scale=first.recommended_scale,
        plan=plan.model_dump(mode="json"),
        steps=first.steps,
        seeds=seeds,
        attribute_units={name: rounded(value) for name, value in units.items()},
        rows=rows,
        comparisons=answers(stacked, units),
        grid_columns=tuple(grid_columns(rows_by_seed[seeds[0]], first.recommended_scale)),
        shipped=previous.shipped if previous else (),
        shipped_sha256=previous.shipped_sha256 if previous else {},
        added=previous.added if previous else (),
    )


def figures(values: dict[str, NDArray[np.float64]], units: dict[str, float]) -> dict[str, Figure]:
    """Every metric of a row, the overall attribute error among them."""
    return {name: figure(found) for name, found in {**values, OVERALL: overall(values, units)}.items()}


def place(key: Key) -> tuple[int, int, float]:
    """Where a row stands in tables: references first, then methods in the order of the plan."""
    if key.name in ORDER:
        return 0, ORDER.index(key.name), 0.0
    kinds = [(item.name, item.method, item.conditioning) for item in ENTRANTS]
    return 1, kinds.index((key.name, key.method, key.conditioning)), key.scale or 0.0


def run_command(plan: Plan, seeds: Sequence[int]) -> str:
    """The command that makes all rows of a plan."""
    options = [
        f"--{name.replace('_', '-')} {_words(value)}"
        for name, value in plan.model_dump().items()
        if value != getattr(Plan(), name) or name in ("pairs", "teacher_steps", "student_steps")
    ]
    return f"python -m benches.leaderboard run --work DIR --seeds {_words(seeds)} {' '.join(options)}"


def _words(value: Any) -> str:
    many = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in many)


def grid_columns(rows: Sequence[Measured], recommended: float) -> dict[str, NDArray[np.uint8]]:
    """Pictures of a seed's rows at the profile's guidance, by label, in the order of tables."""
    kept = [row for row in rows if row.key.scale in (None, recommended) and row.key.name != COPY_TARGET]
    ordered = sorted(kept, key=lambda row: place(row.key))
    return {name: np.empty((0, 1, 1, 3), np.uint8) for name in ("source", "target", "truth")} | {
        row.key.label: row.pictures for row in ordered
    }


def draw_grid(work: Path, seed: int, recommended: float, path: Path) -> None:
    """The picture of the first pairs by every method, of one seed."""
    folder = seed_folder(work, seed)
    columns = grid_columns(read_all(folder / "values"), recommended)
    with np.load(folder / GRID_FILE) as photographs:
        columns |= {name: photographs[name] for name in ("source", "target", "truth")}
    write_grid(path, columns)


def add_scores(board: Leaderboard, name: str, told: dict[str, Any], file_name: str) -> Leaderboard:
    """The leaderboard with rows of `orchard bench score --json`: a program's, and its ceiling at that size.

    A row of the same name is replaced. Raises ValueError for another benchmark.
    """
    digest = told["benchmark"]["hash"]
    if digest != board.benchmark.hash:
        raise ValueError(
            f"{file_name} is of benchmark {digest[:12]}, the leaderboard of "
            f"{board.benchmark.hash[:12]}: take "
            f"`orchard world sample --pairs {board.benchmark.pairs}` and score again"
        )
    rows = [
        Row(
            name=name if kind == RESULTS_OF_BENCH else f"{name}: {kind}",
            method=name if kind == RESULTS_OF_BENCH else f"{name}: {kind}",
            pairs=told["benchmark"]["pairs"],
            compared_at=told["compared_at"],
            metrics={
                metric: Figure.model_validate({**{end: found[end] for end in ENDS}, "count": found["rows"]})
                for metric, found in metrics.items()
            },
            command=f"python -m benches.leaderboard add {name} {file_name}",
        )
        for kind, metrics in told["scores"].items()
    ]
    kept = [row for row in board.added if row.name != name and not row.name.startswith(f"{name}: ")]
    return board.model_copy(update={"added": (*kept, *rows)})


ENDS = ("mean", "low", "high")


def read_scores(path: Path) -> dict[str, Any]:
    """The file that `orchard bench score --json` writes. Raises ValueError when it is another."""
    told = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("benchmark", "compared_at", "scores") if name not in told]
    if missing:
        raise ValueError(f"{path} is not of `orchard bench score --json`: it has no {', '.join(missing)}")
    return told
