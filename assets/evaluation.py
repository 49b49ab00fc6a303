"""`evaluation`: swaps against the world's exact answers, with the two rows that keep us honest.

Real face swapping has no ground truth; a rendered world has. Beside every method stand *copy target* (do
nothing: it beats many models on PSNR) and *codec ceiling* (the exact answer through the model's own codec).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.condition import row_frame
from assets.release import METHODS
from assets.stage import ArtifactStage, Input, StageConfig, StageContext
from assets.swap_base import CodecSource, open_codec
from models.metrics import exact
from models.metrics.identity import identity_leak
from models.metrics.intervals import mean_with_interval
from resources.lake.digest import digest_bytes, digest_json
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe
from resources.lake.schema import EVALUATIONS_SCHEMA, Status
from resources.lake.table import LakeTable
from resources.photos.decoding import DecodeLimits, decode_upright

CODE_VERSION = "1"
COPY_TARGET, CODEC_CEILING = "copy_target", "codec_ceiling"
SMALL_PICTURES = DecodeLimits(min_side=1)
EMBEDDING_SIZE = 256
"""Swaps are enlarged to this side before their identity is embedded, px."""


class EvaluationConfig(StageConfig):
    """At which size pictures are compared, and who judges identity."""

    size: int = Field(ge=16, description="Side at which swaps and truths are compared, px.")
    codec: CodecSource = Field(description="The codec of the base; it gives the ceiling.")
    embedder: str = Field(
        default="dlib_face_recognition", description="Weight role of the identity embedder."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap intervals.")


@dataclass(frozen=True)
class EvaluationPair:
    """One pair with its truth, all pictures RGB uint8 (S, S, 3); `mask` bool (S, S) is the face."""

    pair_id: str
    source_id: str
    target_id: str
    target: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    landmarks_68: np.ndarray


def evaluation_stage(config: EvaluationConfig, recipe: str | None = None) -> ArtifactStage:
    """The stage `evaluation` of a recipe: metrics of every method, with bootstrap intervals."""

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, recipe)

    return ArtifactStage(
        name=of_recipe("evaluation", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="Exact metrics of every swap method, beside copy-target and the codec's ceiling.",
        config=config,
        inputs=(Input(of_recipe("swaps", recipe)),),
        weights=(config.codec.weights, config.embedder),
        build=build,
        extra_content=_truths,
    )


def _truths(lake: Lake) -> bytes:
    rows = lake.swap_pairs.snapshot().dataset.to_table(columns=["pair_id", "truth"]).to_pylist()
    return digest_json(sorted((row["pair_id"], digest_bytes(row["truth"] or b"").hex()) for row in rows))


def _build(
    context: StageContext, fingerprint: bytes, config: EvaluationConfig, recipe: str | None
) -> Artifact:
    stage, swaps = of_recipe("evaluation", recipe), context.lake.table(of_recipe("swaps", recipe))
    pairs = evaluation_pairs(context.lake, config.size, swaps)
    if not pairs:
        context.report(
            f"{stage}: no swap pair has an exact answer (ingest one with --swap-pairs), so nothing is "
            "measured; the swaps themselves are in the report"
        )
        return _artifact(stage, fingerprint, {}, 0)
    codec = open_codec(context, config.codec)
    pictures = _swapped_pictures(swaps, pairs)
    target, truth = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("target", "truth"))
    pictures = {COPY_TARGET: target, CODEC_CEILING: codec.decode(codec.encode(truth)), **pictures}
    scores = _scores(context, config, pairs, pictures)
    rows = [
        {"method": method, "metric": metric, "mean": mean, "low": low, "high": high, "count": len(values)}
        for method, metrics in scores.items()
        for metric, values in metrics.items()
        for mean, low, high in [mean_with_interval(values, seed=config.seed)]
    ]
    artifact = _artifact(stage, fingerprint, {"rows": rows}, len(pairs))
    table = pa.Table.from_pylist(
        [{**row, "evaluation": artifact.digest.hex()} for row in rows], schema=EVALUATIONS_SCHEMA
    )
    known = context.lake.evaluations.snapshot().scan(["evaluation"])["evaluation"].to_pylist()
    if artifact.digest.hex() not in known:
        context.lake.evaluations.append(table)
    return artifact


def _artifact(stage: str, fingerprint: bytes, content: Mapping, pairs: int) -> Artifact:
    figures = {f"{row['method']}: {row['metric']}": round(row["mean"], 4) for row in content.get("rows", [])}
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=digest_json(content),
        code_version=CODE_VERSION,
        metadata={"pairs": pairs, **figures},
    )


def evaluation_pairs(lake: Lake, size: int, swaps: LakeTable) -> list[EvaluationPair]:
    """Pairs of the table `swaps` that have an exact answer, at `size` px, ordered by pair id."""
    swapped = set(swaps.snapshot().scan(["pair_id"])["pair_id"].to_pylist())
    requests = lake.swap_pairs.snapshot().dataset.to_table().to_pylist()
    wanted = [
        row
        for row in sorted(requests, key=lambda row: row["pair_id"])
        if row["truth"] is not None and f"{row['pair_id']}__{METHODS[0]}" in swapped
    ]
    names = ["image", "parsing", "visible_face", "landmarks_68", "iris_10"]
    photos = lake.faces.snapshot().find([row["target_image_id"] for row in wanted], names)
    pairs = []
    for row in wanted:
        photo = photos[row["target_image_id"]]
        arrays = {name: np.asarray(photo[name], np.float32) for name in ("landmarks_68", "iris_10")}
        frame = row_frame({**photo, **arrays, "image": decode_upright(photo["image"])}, size)
        truth = decode_upright(row["truth"], SMALL_PICTURES)
        pairs.append(
            EvaluationPair(
                pair_id=row["pair_id"],
                source_id=row["source_image_id"],
                target_id=row["target_image_id"],
                target=frame.image,
                truth=cv2.resize(truth, (size, size), interpolation=cv2.INTER_AREA),
                mask=frame.face_mask,
                landmarks_68=frame.landmarks_68,
            )
        )
    return pairs


def _swapped_pictures(swaps: LakeTable, pairs: list[EvaluationPair]) -> dict[str, np.ndarray]:
    """Swaps by method, (N, S, S, 3) in the order of `pairs`; a method with a failed swap is an error."""
    rows = swaps.snapshot().scan(["pair_id", "swap", "swaps_state.status"]).to_pylist()
    found = {row["pair_id"]: row["swap"] for row in rows if row["swaps_state.status"] == Status.OK.value}
    pictures = {}
    for method in METHODS:
        keys = [f"{pair.pair_id}__{method}" for pair in pairs]
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"{len(missing)} swaps of {method} are not ok, e.g. {missing[0]}")
        pictures[method] = np.stack([decode_upright(found[key], SMALL_PICTURES) for key in keys])
    return pictures


def _scores(
    context: StageContext,
    config: EvaluationConfig,
    pairs: list[EvaluationPair],
    pictures: Mapping[str, np.ndarray],
) -> dict[str, dict[str, np.ndarray]]:
    """Values per pair of every metric of every method."""
    from models.identity.embedding import IdentityEmbedder, five_points_from_68

    target, truth, mask = (
        np.stack([getattr(pair, name) for pair in pairs]) for name in ("target", "truth", "mask")
    )
    embedder = IdentityEmbedder(context.weight(config.embedder), context.device)
    scale = EMBEDDING_SIZE / config.size
    points = [five_points_from_68((pair.landmarks_68 * scale).astype(np.float32)) for pair in pairs]

    def embed(images: np.ndarray) -> np.ndarray:
        enlarged = [
            cv2.resize(image, (EMBEDDING_SIZE, EMBEDDING_SIZE), interpolation=cv2.INTER_CUBIC)
            for image in images
        ]
        return embedder.embed(enlarged, points)

    truth_embedding, target_embedding = embed(truth), embed(target)
    scores: dict[str, dict[str, np.ndarray]] = {}
    for method, swapped in pictures.items():
        embedding = embed(swapped)
        scores[method] = {
            "psnr": exact.psnr(swapped, truth),
            "face_psnr": exact.masked_psnr(swapped, truth, mask),
            "swap_progress": exact.swap_progress(swapped, target, truth),
            "identity_leak": identity_leak(embedding, truth_embedding, target_embedding, "l2"),
            "light_error": exact.light_error(swapped, truth),
            "background_error": exact.background_error(swapped, truth, mask),
        }
    return scores
