"""`evaluation`: swaps against the world's exact answers, with the two rows that keep us honest.

Real face swapping has no ground truth; a rendered world has. Beside every method stand *copy target* (do
nothing: it beats many models on PSNR) and *codec ceiling* (the exact answer through the model's own codec).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.diffface_config import DIFFFACE
from assets.evaluation_pairs import (
    SMALL_PICTURES,
    EvaluationPair,
    evaluation_pairs,
    pairs_truth,
    truths_content,
    why_not_exact,
)
from assets.evaluation_views import evaluation_markdown, evaluation_preview
from assets.judges import DLIB, Judge, JudgeConfig
from assets.stage import ArtifactStage, StageConfig, StageContext
from assets.swap_base import CodecSource, open_codec
from assets.swap_methods import PAIR, methods_of, stored_swaps, swap_inputs
from models.metrics import exact
from models.metrics.intervals import mean_with_interval
from resources.lake.digest import digest_json
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe
from resources.lake.schema import EVALUATIONS_SCHEMA
from resources.lake.table import LakeTable
from resources.photos.decoding import decode_upright

if TYPE_CHECKING:
    from models.metrics.exact_truth import ExactTruth

CODE_VERSION = "2"
COPY_TARGET, CODEC_CEILING = "copy_target", "codec_ceiling"


class EvaluationConfig(StageConfig):
    """At which size pictures are compared, and who judges identity."""

    size: int = Field(ge=16, description="Side at which swaps and truths are compared, px.")
    codec: CodecSource = Field(description="The codec of the base; it gives the ceiling.")
    judges: tuple[JudgeConfig, ...] = Field(default=(DLIB,), description="Networks that judge identity.")
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap intervals.")


@dataclass(frozen=True)
class Swapped:
    """Pictures of one method, uint8 RGB (M, S, S, 3), of the pairs at the places `rows`."""

    pictures: np.ndarray
    rows: list[int]


def evaluation_stage(
    config: EvaluationConfig, recipe: str | None = None, *, diffface: bool = False
) -> ArtifactStage:
    """The stage `evaluation` of a recipe: metrics of every method, with bootstrap intervals.

    `diffface` says whether the profile has the stage `diffface_swaps`, whose method is then one of them.
    """

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, recipe, diffface=diffface)

    return ArtifactStage(
        name=of_recipe("evaluation", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="Exact metrics of every swap method, beside copy-target and the codec's ceiling.",
        config=config,
        inputs=swap_inputs(recipe, diffface=diffface),
        weights=(config.codec.weights, *(judge.weights for judge in config.judges)),
        build=build,
        extra_content=truths_content,
        preview=evaluation_preview,
        table=evaluation_markdown,
    )


def _build(
    context: StageContext, fingerprint: bytes, config: EvaluationConfig, recipe: str | None, *, diffface: bool
) -> Artifact:
    stage, swaps = of_recipe("evaluation", recipe), context.lake.table(of_recipe("swaps", recipe))
    pairs = evaluation_pairs(context.lake, config.size, swapped_pairs(swaps))
    if not pairs:
        context.report(
            f"{stage}: no swap pair has an exact answer (ingest one with --swap-pairs), so nothing is "
            "measured; the swaps themselves are in the report"
        )
        return _artifact(stage, fingerprint, {}, 0, "")
    missing = why_not_exact(pairs)
    if missing:
        context.report(f"{stage}: {missing}; measured are pixels and identity alone")
    codec = open_codec(context, config.codec)
    everywhere = list(range(len(pairs)))
    target, truth = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("target", "truth"))
    methods = {
        COPY_TARGET: Swapped(target, everywhere),
        CODEC_CEILING: Swapped(codec.decode(codec.encode(truth)), everywhere),
        **swapped_pictures(context.lake, recipe, pairs, methods_of(diffface=diffface)),
    }
    scores = _scores(context, config, pairs, methods, exactly=not missing)
    rows = [
        {"method": method, "metric": metric, "mean": mean, "low": low, "high": high, "count": len(known)}
        for method, metrics in scores.items()
        for metric, values in metrics.items()
        for known in [values[np.isfinite(values)]]
        if len(known)
        for mean, low, high in [mean_with_interval(known, seed=config.seed)]
    ]
    artifact = _artifact(stage, fingerprint, {"rows": rows}, len(pairs), missing)
    table = pa.Table.from_pylist(
        [{**row, "evaluation": artifact.digest.hex()} for row in rows], schema=EVALUATIONS_SCHEMA
    )
    known = context.lake.evaluations.snapshot().scan(["evaluation"])["evaluation"].to_pylist()
    if artifact.digest.hex() not in known:
        context.lake.evaluations.append(table)
    return artifact


def _artifact(stage: str, fingerprint: bytes, content: Mapping, pairs: int, missing: str) -> Artifact:
    figures = {f"{row['method']}: {row['metric']}": round(row["mean"], 4) for row in content.get("rows", [])}
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=digest_json(content),
        code_version=CODE_VERSION,
        metadata={"pairs": pairs, **({"not_measured": missing} if missing else {}), **figures},
    )


def swapped_pairs(swaps: LakeTable) -> list[str]:
    """Ids of the pairs that a table of swaps holds, each once, sorted."""
    rows = swaps.snapshot().scan(["pair_id", "method"]).to_pylist()
    return sorted({row["pair_id"].removesuffix(f"__{row['method']}") for row in rows})


def swapped_pictures(
    lake: Lake, recipe: str | None, pairs: list[EvaluationPair], methods: Sequence[str]
) -> dict[str, Swapped]:
    """Swaps by method. A method that failed for some pairs is measured on the others, and its count says so.

    Raises LakeError for a method that failed for all.
    """
    rows = stored_swaps(lake, recipe, ["swap"], diffface=DIFFFACE in methods)
    found = {(row[PAIR], row["method"]): row["swap"] for row in rows if row["ok"]}
    stored = {}
    for method in methods:
        keys = {place: (pair.pair_id, method) for place, pair in enumerate(pairs)}
        made = {place: found[key] for place, key in keys.items() if key in found}
        if not made:
            raise LakeError(f"no swap by {method} is ok; `orchard status` tells why they failed")
        pictures = [decode_upright(data, SMALL_PICTURES) for data in made.values()]
        stored[method] = Swapped(np.stack(pictures), list(made))
    return stored


def _scores(
    context: StageContext,
    config: EvaluationConfig,
    pairs: list[EvaluationPair],
    methods: Mapping[str, Swapped],
    *,
    exactly: bool,
) -> dict[str, dict[str, np.ndarray]]:
    """Values per pair of every metric of every method."""
    bench = pairs_truth(pairs, config.size) if exactly else None
    points = [pair.landmarks_68 for pair in pairs] if bench is None else list(bench.landmarks_68_N682)
    judges = [Judge(judge, context, points, config.size) for judge in config.judges]
    target, truth = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("target", "truth"))
    known = {judge.name: (judge.embed(truth), judge.embed(target)) for judge in judges}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for method, swapped in methods.items():
        rows = swapped.rows
        found = _pixel_scores(swapped, pairs, bench)
        found["swap_progress"] = exact.swap_progress(swapped.pictures, target[rows], truth[rows])
        for judge in judges:
            own, other = (embeddings[rows] for embeddings in known[judge.name])
            found |= judge.scores(judge.embed(swapped.pictures, rows), own, other)
        scores[method] = found
    return scores


def _pixel_scores(
    swapped: Swapped, pairs: list[EvaluationPair], bench: ExactTruth | None
) -> dict[str, np.ndarray]:
    """By the regions of the truth rendered again, else by its picture and the face as it was annotated."""
    if bench is not None:
        from models.metrics.exact_scores import exact_scores

        return exact_scores(swapped.pictures, at_rows(bench, swapped.rows))
    truth, mask = (
        np.stack([getattr(pairs[row], name) for row in swapped.rows]) for name in ("truth", "mask")
    )
    return {
        "face_psnr": exact.masked_psnr(swapped.pictures, truth, mask),
        "psnr": exact.psnr(swapped.pictures, truth),
        "light_error": exact.light_error(swapped.pictures, truth),
        "background_error": exact.background_error(swapped.pictures, truth, mask),
    }


def at_rows(bench: ExactTruth, rows: list[int]) -> ExactTruth:
    """The exact truth of some rows."""
    return type(bench)(**{field.name: getattr(bench, field.name)[rows] for field in fields(bench)})
