"""The result file: its schema, and how values of all pairs and seeds become means with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from assets.frontier_config import TEACHER
from assets.frontier_summary import ATTRIBUTES
from benches.leaderboard.plan import BASELINE
from benches.leaderboard.values import Key, Measured
from models.metrics.exact_scores import HIGHER_IS_BETTER
from models.metrics.frontier import resampled_weights
from models.swap.config import FrozenConfig

SCHEMA_VERSION = 1
RESULT = Path("benches/results/leaderboard.json")
OVERALL = "attribute_error"
"""Mean of the attributes' errors, each in units of the baseline teacher's at the profile's own guidance."""

SIMILARITY = "id_similarity_world"
LEAK = "id_leak_world"
BETTER_UP = (*HIGHER_IS_BETTER, SIMILARITY)
DIGITS = 6


class Figure(FrozenConfig):
    """A mean between the ends of its 95 % interval, over `count` values; None where nothing was measured."""

    mean: float | None
    low: float | None
    high: float | None
    count: int
    per_seed: tuple[float | None, ...] = ()


class Row(FrozenConfig):
    """One method at one guidance scale."""

    name: str = Field(
        description="What was trained: a recipe, `base`, or the method itself where nothing was."
    )
    method: str
    conditioning: str | None = Field(default=None, description="What an inversion sees.")
    id_guidance_scale: float | None = None
    seeds: tuple[int, ...] = Field(default=(), description="Training seeds; empty where nothing is trained.")
    pairs: int
    compared_at: int = Field(description="Side at which pictures are compared, px.")
    metrics: dict[str, Figure]
    command: str

    @property
    def key(self) -> Key:
        """What tells rows apart."""
        return Key(self.name, self.method, self.conditioning, self.id_guidance_scale)


class Difference(FrozenConfig):
    """An error of the method less the reference's at equal identity; no interval is None."""

    metric: str
    value: float
    reference: float
    difference: float
    low: float | None
    high: float | None


class Comparison(FrozenConfig):
    """The answer to one question on one measure of identity."""

    key: str
    question: str
    method: str
    reference: str
    axis: str
    level: float | None = Field(
        description="The identity at which both are compared; None where none is shared."
    )
    scale: float
    reference_scale: float
    differences: tuple[Difference, ...]
    verdict: str
    because: str


class Benchmark(FrozenConfig):
    """Which benchmark."""

    hash: str
    version: str
    world_version: str
    seed: int
    pairs: int
    measured: int = Field(description="Pairs of which both photographs were annotated.")
    left_out: tuple[str, ...]


class Leaderboard(FrozenConfig):
    """The whole result file."""

    schema_version: int = SCHEMA_VERSION
    date: str
    benchmark: Benchmark
    base_file_sha256: str
    embedder_sha256: str
    recommended_scale: float
    plan: dict[str, Any]
    steps: dict[str, int]
    seeds: tuple[int, ...]
    attribute_units: dict[str, float]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    grid_columns: tuple[str, ...]
    shipped: tuple[Row, ...] = ()
    shipped_sha256: dict[str, str] = Field(default_factory=dict)
    added: tuple[Row, ...] = ()

    def row(self, label: str, scale: float | None) -> Row | None:
        """The pooled row of that label (`inpainting/teacher`) and scale."""
        return next((row for row in self.rows if row.key.label == label and row.key.scale == scale), None)


def read_result(path: Path) -> Leaderboard:
    """The result file. Raises ValueError for another schema, FileNotFoundError where there is none."""
    board = Leaderboard.model_validate_json(path.read_text(encoding="utf-8"))
    if board.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema {board.schema_version}, this program reads {SCHEMA_VERSION}")
    return board


def write_result(path: Path, board: Leaderboard) -> None:
    """Write the result file, whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text(board.model_dump_json(indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def pooled(
    rows_by_seed: Mapping[int, Sequence[Measured]],
) -> dict[Key, tuple[tuple[int, ...], dict[str, NDArray[np.float64]]]]:
    """Rows with the seeds that have them and values (S, N) by metric.

    What nothing was trained for is the same in every seed and comes once, without a seed.

    Raises ValueError when seeds were measured on different pairs.
    """
    pairs = {row.pair_ids for rows in rows_by_seed.values() for row in rows}
    if len(pairs) > 1:
        raise ValueError("the seeds were measured on different pairs; run them with one plan and one Orchard")
    found: dict[Key, dict[int, Measured]] = {}
    for seed, rows in sorted(rows_by_seed.items()):
        for row in rows:
            found.setdefault(row.key, {})[seed] = row
    stacked = {}
    for key, by_seed in found.items():
        untrained = key.name == key.method
        kept = list(by_seed.values())[:1] if untrained else list(by_seed.values())
        names = kept[0].values
        stacked[key] = (
            () if untrained else tuple(by_seed),
            {name: np.stack([item.values[name] for item in kept]) for name in names},
        )
    return stacked


def attribute_units(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The mean error in a row, which is then 1, of every attribute that its photographs show."""
    shown = [name for name in ATTRIBUTES if np.isfinite(values[name]).any()]
    return {name: float(np.nanmean(values[name])) for name in shown}


def overall(values: Mapping[str, NDArray[np.float64]], units: Mapping[str, float]) -> NDArray[np.float64]:
    """`attribute_error` of every value: the mean over the attributes that a photograph shows."""
    shares = np.stack([values[name] / units[name] for name in units])
    known = np.isfinite(shares)
    counts = known.sum(axis=0)
    sums = np.where(known, shares, 0.0).sum(axis=0)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def unit_row(recommended: float) -> Key:
    """The row whose attribute errors are the units."""
    return Key(BASELINE, TEACHER, None, recommended)


def figure(values_SN: NDArray[np.float64], seed: int = 0) -> Figure:
    """Mean and interval of values (S, N) from a bootstrap that draws seeds and pairs; NaN are left out."""
    known = np.isfinite(values_SN)
    count = int(known.sum())
    per_seed = tuple(
        rounded(float(row[mask].mean())) if mask.any() else None
        for row, mask in zip(values_SN, known, strict=True)
    )
    told = per_seed if len(values_SN) > 1 else ()
    if not count:
        return Figure(mean=None, low=None, high=None, count=0, per_seed=told)
    weights = _weights(values_SN.size, seed, len(values_SN))
    flat, mask = np.where(known, values_SN, 0.0).ravel(), known.ravel().astype(np.float64)
    shares = weights @ mask
    means = (weights @ flat)[shares > 0] / shares[shares > 0]
    low, high = np.quantile(means[1:], [0.025, 0.975])
    return Figure(
        mean=rounded(float(means[0])), low=rounded(float(low)), high=rounded(float(high)), count=count,
        per_seed=told,
    )  # fmt: skip


@lru_cache(maxsize=4)
def _weights(columns: int, seed: int, runs: int) -> NDArray[np.float64]:
    return resampled_weights(columns, seed, runs=runs)


def rounded(value: float) -> float:
    """A number to six significant digits."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value
