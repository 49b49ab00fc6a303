"""`triplets_release`: the triplets that a student learns from, chosen by their scores, pinned as one version.

Filters are data, not deletions: a triplet that is left out keeps its row. By default nothing is left out, as
in APPLE; then the release does not even wait for the scores.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from assets.release import keep_list
from assets.stage import ArtifactStage, Input, StageConfig, StageContext
from resources.lake.digest import digest_bytes, digest_json
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe
from resources.lake.schema import Status, state_column

CODE_VERSION = "2"

LOWEST = {"min_identity": "identity_similarity", "min_aesthetic": "swap_aesthetic_score"}
HIGHEST = {
    "max_identity_leak": "identity_leak",
    "max_pose_degrees": "pose_difference",
    "max_expression": "expression_difference",
}
"""Columns of `triplet_scores` that the filters look at."""

PAIR_COLUMNS = ("pair_id", "source_image_id", "target_image_id")


class TripletsReleaseConfig(StageConfig):
    """Which triplets a student learns from. A filter that is None is off; APPLE filters nothing.

    What a score means is the profile's business: see `triplet_scores`. A triplet in whose picture no face was
    found fails every filter.
    """

    min_identity: float | None = Field(
        default=None, description="Least cosine similarity of the swapped face to the source's."
    )
    max_identity_leak: float | None = Field(
        default=None, description="Greatest cosine similarity of the swapped face to the target's."
    )
    max_pose_degrees: float | None = Field(
        default=None, ge=0, description="Greatest pose difference to the target, degrees."
    )
    max_expression: float | None = Field(
        default=None, ge=0, description="Greatest expression difference to the target."
    )
    min_aesthetic: float | None = Field(default=None, description="Least score of the swapped picture.")
    train_size: int | None = Field(
        default=None,
        ge=1,
        description="At most so many triplets, drawn by `seed`. The original takes the head of the sorted "
        "list, which favours low source ids.",
    )
    seed: int = Field(default=0, ge=0, description="Decides which triplets `train_size` keeps.")

    @property
    def filters(self) -> dict[str, float]:
        """The limits that are on, by name."""
        limits = {name: getattr(self, name) for name in (*LOWEST, *HIGHEST)}
        return {name: limit for name, limit in limits.items() if limit is not None}


def triplets_release_stage(
    config: TripletsReleaseConfig | None = None, recipe: str | None = None
) -> ArtifactStage:
    """The stage `triplets_release` of a recipe: a Lance tag, list and digest of the triplets in use."""
    made, scored = of_recipe("pseudo_triplets", recipe), of_recipe("triplet_scores", recipe)
    config = config or TripletsReleaseConfig()

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, recipe)

    return ArtifactStage(
        name=of_recipe("triplets_release", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="The pseudo triplets of one training round, pinned as a Lance tag.",
        config=config,
        inputs=(Input(made), *([Input(scored)] if config.filters else [])),
        build=build,
    )


def _build(
    context: StageContext, fingerprint: bytes, config: TripletsReleaseConfig, recipe: str | None
) -> Artifact:
    table = context.lake.table(of_recipe("triplets", recipe))
    snapshot = table.snapshot()
    made = state_column("pseudo_triplets")
    names = [*PAIR_COLUMNS, f"{made}.status", f"{made}.digest"]
    if config.filters:
        scored = {**LOWEST, **HIGHEST}
        names += [f"{state_column('triplet_scores')}.status", "face_found"]
        names += [scored[name] for name in config.filters]
    rows = snapshot.scan(names).select(names).to_pylist()
    left_out: Counter[str] = Counter()
    good = []
    for row in rows:
        reason = _reason(row, config.filters)
        if reason is None:
            good.append(row)
        else:
            left_out[reason] += 1
    if config.train_size is not None and len(good) > config.train_size:
        left_out["train_size"] = len(good) - config.train_size
        good = sorted(good, key=lambda row: _draw(config.seed, row["pair_id"]))[: config.train_size]
    if not good:
        told = ", ".join(f"{count} by {reason}" for reason, count in left_out.items())
        raise LakeError(
            f"none of {len(rows)} pseudo triplets is left (left out: {told or 'nothing'}); `orchard status` "
            "tells what is not ok, and the profile's filters of triplets_release what is asked of the others"
        )
    good.sort(key=lambda row: row["pair_id"])
    digest = digest_json([[row["pair_id"], row[f"{made}.digest"].hex()] for row in good])
    location = _write_list(context.lake, good)
    tag = f"triplets-{digest.hex()[:12]}"
    table.tag(tag, snapshot.version)
    return Artifact(
        stage=of_recipe("triplets_release", recipe),
        fingerprint=fingerprint,
        digest=digest,
        code_version=CODE_VERSION,
        location=location,
        metadata={
            "version": snapshot.version,
            "tag": tag,
            "triplets": len(good),
            "rows": len(rows),
            "left_out": dict(sorted(left_out.items())),
        },
    )


def _reason(row: dict[str, Any], filters: dict[str, float]) -> str | None:
    """Why a triplet is left out: what it lacks, or the first filter that it fails."""
    if row[f"{state_column('pseudo_triplets')}.status"] != Status.OK.value:
        return "not ok"
    if not filters:
        return None
    if row[f"{state_column('triplet_scores')}.status"] != Status.OK.value:
        return "not scored"
    if not row["face_found"]:
        return "no face"
    for name, limit in filters.items():
        low = name in LOWEST
        score = row[LOWEST[name] if low else HIGHEST[name]]
        if not (score >= limit if low else score <= limit):
            return name
    return None


def _draw(seed: int, pair_id: str) -> bytes:
    """A triplet's place in the draw: it does not depend on the other triplets."""
    return digest_bytes(str(seed).encode(), pair_id.encode())


def _write_list(lake: Lake, rows: list[dict[str, Any]]) -> str:
    """Keep the list of released triplets beside the lake."""
    table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in PAIR_COLUMNS})
    return keep_list(lake, table, f"triplets-{digest_json([row['pair_id'] for row in rows]).hex()[:16]}")


def released_triplets(lake: Lake, release: Artifact) -> list[str]:
    """Pair ids of a release's triplets, sorted. Raises LakeError for a release of an older Orchard."""
    if release.location is None:
        raise LakeError(
            "this release of triplets has no list of them; run `orchard run triplets_release --force`"
        )
    return pq.read_table(lake.fetch(release.location), columns=["pair_id"])["pair_id"].to_pylist()
