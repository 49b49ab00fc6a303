"""`frontier`: what identity costs in attributes, over the strength of identity guidance.

A row of the evaluation is one point. Here teacher, teacher with each kind of inversion, and student are swept
over the guidance scale on pairs whose exact answer is known, and compared where they show equally much of the
source. A pair starts from the same noise in every method and at every scale (the stage `swaps` draws another
one for each method).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from assets.batches import merge_columns
from assets.evaluation import (
    CODEC_CEILING,
    COPY_TARGET,
    Swapped,
    at_rows,
    swapped_pairs,
    swapped_pictures,
)
from assets.evaluation_pairs import (
    EvaluationPair,
    evaluation_pairs,
    pairs_truth,
    truths_content,
    why_not_exact,
)
from assets.frontier_config import INVERTED, FrontierConfig
from assets.frontier_file import FrontierRow, frontier_digest, keep_frontier
from assets.frontier_summary import frontier_markdown, frontier_preview, headline, summarise
from assets.judges import Judge
from assets.stage import ArtifactStage, Input, Row, StageContext
from assets.swap_base import PROMPTS_STAGE
from assets.swap_methods import methods_of, swap_inputs
from assets.swapping import SOURCE, TARGET, PairReading, marked_row, swap_rows
from assets.swaps import BATCH_SIZE, SwapModels
from resources.lake.lake import Artifact
from resources.lake.recipes import of_recipe
from resources.photos.decoding import decode_upright

if TYPE_CHECKING:  # torch and the renderer load seconds later
    from models.metrics.exact_truth import ExactTruth

CODE_VERSION = "1"


def frontier_stage(
    config: FrontierConfig,
    recipe: str | None = None,
    reading: PairReading = PairReading(),
    batch_size: int = BATCH_SIZE,
    *,
    diffface: bool = False,
) -> ArtifactStage:
    """The stage `frontier` of a recipe. Nothing is measured where no pair's answer can be rendered.

    `diffface` says whether the profile has the stage `diffface_swaps`, whose swaps are then one point: what
    its own arguments trade is no matter of identity guidance.
    """

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, recipe, reading, batch_size, diffface=diffface)

    swaps = config.swaps
    return ArtifactStage(
        name=of_recipe("frontier", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="Exact metrics over identity guidance, and methods compared at equal identity.",
        config=config,
        # the digests of all swaps cover identities and latents of all pairs, at one scale
        inputs=(
            Input(PROMPTS_STAGE),
            *(Input(of_recipe(name, recipe)) for name in ("teacher", "student")),
            *swap_inputs(recipe, diffface=diffface),
        ),
        weights=tuple(
            dict.fromkeys(
                (
                    *swaps.base.roles,
                    *(swaps.pair_condition.weights if swaps.pair_condition else ()),
                    *(judge.weights for judge in config.judges),
                )
            )
        ),
        build=build,
        extra_content=truths_content,
        preview=frontier_preview,
        table=frontier_markdown,
    )


def _build(
    context: StageContext,
    fingerprint: bytes,
    config: FrontierConfig,
    recipe: str | None,
    reading: PairReading,
    batch_size: int,
    *,
    diffface: bool,
) -> Artifact:
    stage = of_recipe("frontier", recipe)
    table = context.lake.table(of_recipe("swaps", recipe))
    size = config.swaps.base.model.image_size
    pairs = evaluation_pairs(context.lake, size, swapped_pairs(table), config.sweep.pairs)
    missing = why_not_exact(pairs) if pairs else "no swap pair has an exact answer"
    if missing:
        context.report(f"{stage}: {missing}; a frontier is measured against rendered answers alone")
        return Artifact(
            stage, fingerprint, frontier_digest([]), CODE_VERSION, None, {"rows": 0, "not_measured": missing}
        )
    fixed = [name for name in methods_of(diffface=diffface) if name not in _SWEPT]
    stored = swapped_pictures(context.lake, recipe, pairs, fixed)
    artifacts = {name: of_recipe(name, recipe) for name in ("teacher", "student")}
    sweep = _Sweep(config, context, SwapModels(config.swaps, context, artifacts, reading), reading)
    rows: list[FrontierRow] = []
    for start in range(0, len(pairs), batch_size):
        places = list(range(start, min(start + batch_size, len(pairs))))
        rows += sweep.rows([pairs[place] for place in places], _at(stored, places), start)
        context.report(f"{stage}: {places[-1] + 1} of {len(pairs)} pairs")
    summary = summarise(rows, config.seed)
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=frontier_digest(rows),
        code_version=CODE_VERSION,
        location=keep_frontier(context.lake, rows, summary),
        metadata={"rows": len(rows), "pairs": len(pairs), **headline(summary)},
    )


_SWEPT = ("teacher", "teacher_inversion", "student")


def _at(stored: dict[str, Swapped], places: Sequence[int]) -> dict[str, Swapped]:
    """Stored swaps of the pairs at these places, counted from the first of them."""
    found = {}
    for method, swapped in stored.items():
        kept = [(index, row - places[0]) for index, row in enumerate(swapped.rows) if row in places]
        if kept:
            indices, rows = zip(*kept, strict=True)
            found[method] = Swapped(swapped.pictures[list(indices)], list(rows))
    return found


@dataclass(frozen=True)
class _Batch:
    """Pairs that are swapped together, what is read of them, and what they are measured against."""

    pairs: list[EvaluationPair]
    rows: Sequence[Row]
    bench: ExactTruth
    judges: list[tuple[Judge, np.ndarray, np.ndarray]]
    first: int


class _Sweep:
    """All methods at all scales over batches of pairs."""

    def __init__(
        self, config: FrontierConfig, context: StageContext, models: SwapModels, reading: PairReading
    ) -> None:
        self.config, self.context, self.models, self.reading = config, context, models, reading
        self.size = config.swaps.base.model.image_size

    def rows(
        self, pairs: list[EvaluationPair], stored: dict[str, Swapped], first: int
    ) -> Iterator[FrontierRow]:
        """Measure a batch; `first` is the number of pairs before it."""
        bench = pairs_truth(pairs, self.size)
        judges = []
        for config in self.config.judges:
            judge = Judge(config, self.context, list(bench.landmarks_68_N682), self.size)
            judges.append((judge, judge.embed(bench.truth_NHWC), judge.embed(bench.target_NHWC)))
        batch = _Batch(pairs, self._read(pairs), bench, judges, first)
        codec = self.models.swapper.base.codec
        everywhere = list(range(len(pairs)))
        references = {
            COPY_TARGET: Swapped(bench.target_NHWC, everywhere),
            CODEC_CEILING: Swapped(codec.decode(codec.encode(bench.truth_NHWC)), everywhere),
            **stored,
        }
        for method, swapped in references.items():
            yield from self._measured(batch, method, None, swapped)
        for method in self.config.sweep.methods:
            for scale in self.config.sweep.scales:
                swapped = Swapped(self._swap(batch.rows, method, scale), everywhere)
                yield from self._measured(batch, method, scale, swapped)

    def _swap(self, rows: Sequence[Row], method: str, scale: float) -> np.ndarray:
        """The batch by one method at one scale, uint8 RGB (N, S, S, 3)."""
        name, _, conditioning = method.partition(":")
        checkpoint, condition, sampling = self.models.recipe(name)
        changes: dict[str, Any] = {"id_guidance_scale": scale}
        if name == INVERTED:
            changes["inversion"] = conditioning
        if checkpoint != self.models.worn:
            self.models.swapper.use_adapters(self.models.adapters[checkpoint])
            self.models.worn = checkpoint
        sampling = sampling.model_copy(update=changes)
        return swap_rows(self.models.swapper, rows, condition, sampling, self.reading.identity)[1]

    def _measured(
        self, batch: _Batch, method: str, scale: float | None, swapped: Swapped
    ) -> Iterator[FrontierRow]:
        from models.metrics.exact_scores import exact_scores

        values = exact_scores(swapped.pictures, at_rows(batch.bench, swapped.rows))
        for judge, truth, target in batch.judges:
            embedded = judge.embed(swapped.pictures, swapped.rows)
            values |= judge.scores(embedded, truth[swapped.rows], target[swapped.rows])
        for index, row in enumerate(swapped.rows):
            pair = batch.pairs[row]
            kept = scale is not None and batch.first + row < self.config.sweep.pictures
            yield FrontierRow(
                pair.pair_id,
                pair.source_id,
                pair.target_id,
                method,
                scale,
                {name: float(found[index]) for name, found in values.items()},
                self._marked(swapped.pictures[index], batch.rows[row], method, scale) if kept else None,
            )

    def _marked(self, picture: np.ndarray, row: Row, method: str, scale: float | None) -> bytes:
        checkpoint = self.models.recipe(method.partition(":")[0])[0]
        return marked_row(picture, row, self.models.model_ids[checkpoint], f"frontier/{method} at {scale:g}")

    def _read(self, pairs: list[EvaluationPair]) -> Sequence[Row]:
        """Rows as the stage `swaps` reads them, with the target's own identity, which some inversions see."""
        shaped = self.config.swaps.pair_condition
        inputs = [*self.reading.inputs, *(shaped.inputs if shaped else ())]
        wanted = {
            via: list(dict.fromkeys(name for item in inputs if item.via == via for name in item.columns))
            for via in (SOURCE, TARGET)
        }
        wanted[TARGET] = list(dict.fromkeys([*wanted[TARGET], self.reading.identity]))
        snapshot = self.context.lake.faces.snapshot()
        index = snapshot.scan(["image_id"])
        row_ids = dict(zip(index["image_id"].to_pylist(), index["_rowid"].to_pylist(), strict=True))
        rows: list[dict[str, Any]] = [
            {"pair_id": pair.pair_id, SOURCE: pair.source_id, TARGET: pair.target_id} for pair in pairs
        ]
        for via, columns in wanted.items():
            unique = sorted({row_ids[row[via]] for row in rows})
            read = snapshot.read_table(unique, columns)
            places = {row_id: place for place, row_id in enumerate(unique)}
            spread = read.take(pa.array([places[row_ids[row[via]]] for row in rows]))
            merge_columns(rows, spread, {name: f"{via}.{name}" for name in columns})
        if self.models.pair_condition is None:
            return rows
        for row in rows:
            for via in (SOURCE, TARGET):
                row[f"{via}.image"] = decode_upright(row[f"{via}.image"])
        return self.models.pair_condition.added_to(rows, self.models.swapper.base.codec)
