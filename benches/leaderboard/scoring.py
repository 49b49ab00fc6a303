"""The benchmark's pairs in an annotated lake: swapped by any adapters at any guidance, and measured.

Pictures are made and measured as in the stages `swaps` and `frontier`: the same inputs from the lake, the
same noise for a pair in every method, at every scale and in every seed, and the same exact metrics. Rows of
all recipes share one rendering of the truths and of the people that they are told apart from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.batches import merge_columns
from assets.classical_swaps import MESH_WARP_INPUTS, mesh_warped
from assets.condition import TARGET_COLUMN, ConditionStageConfig
from assets.evaluation import at_rows
from assets.evaluation_pairs import EvaluationPair, evaluation_pairs, pairs_truth
from assets.frontier_config import INVERTED, STUDENT
from assets.judges import WORLD, Judge
from assets.pair_condition import PAIR_CONDITION, PairCondition, pair_condition_config
from assets.stage import Input, StageContext
from assets.swap_base import execution_settings, open_base
from assets.swapping import IDENTITY, SOURCE, TARGET, swap_rows
from benches.leaderboard.plan import BASELINE, SHAPED, Entrant
from models.metrics.exact_scores import exact_scores
from models.swap.swapper import Swapper, verified_lora
from pipeline.graph import Parts
from resources.lake.lake import Lake
from resources.lake.schema import Status, state_column
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError
from resources.weights.resolve import resolve

ANNOTATED = ("landmarks", "iris", "masks", IDENTITY, "latents")
"""Stages in which both photographs of a pair must be ok."""

BATCH = 50
Values = dict[str, NDArray[np.float64]]


class Bench:
    """All usable pairs of the benchmark, and a swapper that wears one pair of adapters after the other.

    `left_out` are pairs in which some stage found no face; no method is measured on them.
    """

    def __init__(
        self, lake: Lake, parts: Parts, wanted: Sequence[str], report: Callable[[str], None]
    ) -> None:
        """`wanted` are the ids of the benchmark's pairs."""
        self.lake, self.parts, self.report = lake, parts, report
        self.size = parts.base.model.image_size
        usable = _usable(lake, wanted)
        self.left_out = tuple(pair for pair in wanted if pair not in usable)
        report(f"rendering truths and candidates of {len(usable)} pairs")
        self.pairs = evaluation_pairs(lake, self.size, usable)
        self.truth = pairs_truth(self.pairs, self.size)
        roles = dict.fromkeys((*parts.base.roles, WORLD.weights))
        self.context = StageContext(lake, {role: resolve(role) for role in roles}, "cpu", report)
        self.judge = Judge(WORLD, self.context, list(self.truth.landmarks_68_N682), self.size)
        self._judged = self.judge.embed(self.truth.truth_NHWC), self.judge.embed(self.truth.target_NHWC)
        base = open_base(self.context, parts.base)
        self.swapper = Swapper.on_base(base, None, device="cpu", execution=execution_settings())
        self.worn: Path | None = None
        self.rows = self._read()

    @property
    def pair_ids(self) -> list[str]:
        """Ids of the usable pairs, in the order of all values."""
        return [pair.pair_id for pair in self.pairs]

    def copies(self) -> NDArray[np.uint8]:
        """The targets themselves, uint8 RGB (N, S, S, 3)."""
        return self.truth.target_NHWC

    def ceilings(self) -> NDArray[np.uint8]:
        """The exact answers through the base's codec."""
        codec = self.swapper.base.codec
        return codec.decode(codec.encode(self.truth.truth_NHWC))

    def warped(self) -> tuple[NDArray[np.uint8], list[int]]:
        """Classical swaps, and which pairs they are of: some faces cannot be warped."""
        found = [(row, mesh_warped(values, self.size)) for row, values in enumerate(self.rows)]
        made = [(row, picture) for row, picture in found if not isinstance(picture, RowError)]
        return np.stack([picture for _, picture in made]), [row for row, _ in made]

    def swap(self, entrant: Entrant, scale: float, adapters: Path | None) -> NDArray[np.uint8]:
        """Every pair by one method at one scale.

        Raises ValueError when the base alone is asked for after adapters were put on it.
        """
        if adapters is None and self.worn is not None:
            raise ValueError("the base wears adapters already; measure it first")
        if adapters is not None and adapters != self.worn:
            self.swapper.use_adapters(verified_lora(self.swapper.base, adapters))
            self.worn = adapters
        condition, rows = self._condition(entrant)
        sampling = self.parts.recipe(entrant.recipe or BASELINE).sampling.model_copy(
            update={
                "id_guidance_scale": scale,
                "inversion": entrant.conditioning if entrant.method == INVERTED else None,
            }
        )
        return np.concatenate(
            [
                swap_rows(self.swapper, rows[first : first + BATCH], condition, sampling)[1]
                for first in range(0, len(rows), BATCH)
            ]
        )

    def score(self, pictures: NDArray[np.uint8], rows: Sequence[int] | None = None) -> Values:
        """All metrics of pictures of the pairs (of those at `rows`), float64 (N,), NaN where not measured."""
        places = list(range(len(self.pairs))) if rows is None else list(rows)
        truth, target = (embedded[places] for embedded in self._judged)
        found = exact_scores(pictures, at_rows(self.truth, places))
        found |= self.judge.scores(self.judge.embed(pictures, places), truth, target)
        values = {}
        for name, measured in found.items():
            values[name] = np.full(len(self.pairs), np.nan)
            values[name][places] = measured
        return values

    def sources(self) -> NDArray[np.uint8]:
        """Source photographs at the model's size, for people to look at."""
        from models.faces.frame import square_picture

        return np.stack([square_picture(row[f"{SOURCE}.image"], self.size) for row in self.rows])

    def _condition(self, entrant: Entrant) -> tuple[str, list[dict[str, Any]]]:
        """Which latents of the target the condition branch sees, and rows that have them."""
        if entrant.method == STUDENT:
            return TARGET_COLUMN, self.rows
        if entrant.name == SHAPED:
            recipe = self.parts.recipe(SHAPED)
            config = ConditionStageConfig(image=recipe.condition, size=self.size)
            drawn = PairCondition(pair_condition_config(config, self.parts.annotation), self.context)
            return PAIR_CONDITION, [dict(row) for row in drawn.added_to(self.rows, self.swapper.base.codec)]
        return self.parts.view(entrant.recipe or BASELINE).condition.column, self.rows

    def _read(self) -> list[dict[str, Any]]:
        """What all methods read of both photographs, and their pixels."""
        recipe = self.parts.recipes[0]
        config = ConditionStageConfig(image=recipe.condition, size=self.size)
        inputs = [*MESH_WARP_INPUTS, *pair_condition_config(config, self.parts.annotation).inputs]
        faces = self.lake.faces.snapshot()
        drawn = {self.parts.view(recipe.name).condition.column for recipe in self.parts.recipes}
        inputs += [
            Input(IDENTITY, (IDENTITY,), via=SOURCE),
            Input(IDENTITY, (IDENTITY,), via=TARGET),
            Input("latents", (TARGET_COLUMN, *sorted(drawn & set(faces.columns))), via=TARGET),
        ]
        rows = read_pairs(self.lake, self.pairs, inputs)
        for row in rows:
            for side in (SOURCE, TARGET):
                row[f"{side}.image"] = decode_upright(row[f"{side}.image"])
        return rows


def read_pairs(lake: Lake, pairs: Sequence[EvaluationPair], inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """Rows of pairs with columns of both photographs, `<side>.<column>`, and the encoded photographs."""
    snapshot = lake.faces.snapshot()
    index = snapshot.scan(["image_id"])
    row_ids = dict(zip(index["image_id"].to_pylist(), index["_rowid"].to_pylist(), strict=True))
    rows: list[dict[str, Any]] = [
        {"pair_id": pair.pair_id, SOURCE: pair.source_id, TARGET: pair.target_id} for pair in pairs
    ]
    for side in (SOURCE, TARGET):
        columns = sorted({"image", *(name for item in inputs if item.via == side for name in item.columns)})
        unique = sorted({row_ids[row[side]] for row in rows})
        read = snapshot.read_table(unique, columns)
        places = {row_id: place for place, row_id in enumerate(unique)}
        spread = read.take(pa.array([places[row_ids[row[side]]] for row in rows]))
        merge_columns(rows, spread, {name: f"{side}.{name}" for name in columns})
    return rows


def _usable(lake: Lake, wanted: Sequence[str]) -> list[str]:
    """Pairs of which both photographs are annotated."""
    statuses = [f"{state_column(stage)}.status" for stage in ANNOTATED]
    rows = lake.faces.snapshot().scan(["image_id", *statuses]).to_pylist()
    good = {row["image_id"] for row in rows if all(row[name] == Status.OK.value for name in statuses)}
    pairs = lake.swap_pairs.snapshot().find(list(wanted), ["source_image_id", "target_image_id"])
    return sorted(
        pair_id
        for pair_id, row in pairs.items()
        if row["source_image_id"] in good and row["target_image_id"] in good
    )
