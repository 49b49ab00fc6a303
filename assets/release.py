"""`release`: which rows may be trained on, which pairs are made and swapped, pinned as one version.

Between hundreds of photo shards and whatever is trained from all of them stands this one small asset: a Lance
tag and a digest. Policy is applied here once: only rows with a consent that allows generation get through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from assets.stage import ArtifactStage, Input, StageConfig, StageContext
from models.swap.pair_sampling import PairStream
from resources.lake.consent import GENERATIVE_CONSENTS
from resources.lake.digest import digest_json
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.lake import Artifact, Lake
from resources.lake.pairs import pinned_pairs, sync_pairs
from resources.lake.recipes import of_recipe
from resources.lake.schema import (
    DIFFFACE_SWAPS_SCHEMA,
    DIGEST_BYTES,
    SWAPS_SCHEMA,
    TRIPLETS_SCHEMA,
    Status,
    state_column,
)
from resources.lake.table import Snapshot

METHODS = ("teacher", "teacher_inversion", "student", "mesh_warp")
"""How each evaluation pair is swapped; the last is no model, see `assets.classical_swaps`."""

NEEDED = ("identity_embedding", "latents")
"""Stages in which a row must be ok to be used, where a recipe needs no more."""


class ReleaseConfig(StageConfig):
    """What is selected from the lake."""

    triplets: int = Field(ge=1, description="Pseudo triplets to make; each ordered pair of people once.")
    swap_pairs: int = Field(
        ge=1, description="Pairs to swap for evaluation when no list was ingested with --swap-pairs."
    )
    pair_shard_size: int = Field(ge=1, description="Pairs per shard of the triplet and swap tables.")
    min_aesthetic_score: float = Field(default=0.0, description="Rows must score above this.")
    seed: int = Field(default=42, ge=0, description="Decides which pairs are drawn.")
    hold_out_swap_people: bool = Field(
        default=True, description="People of an ingested list of pairs to evaluate are never trained on."
    )


def release_stage(
    config: ReleaseConfig, recipe: str | None = None, needed: Sequence[str] = NEEDED
) -> ArtifactStage:
    """The stage `release` of a recipe; `needed` are the stages in which a row must be ok to be used."""

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, recipe, needed)

    return ArtifactStage(
        name=of_recipe("release", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="The rows, triplet pairs and swap pairs of one training round, pinned as a Lance tag.",
        config=config,
        inputs=(Input("aesthetics"), *(Input(name) for name in needed)),
        build=build,
        extra_content=_policy_content,
    )


CODE_VERSION = "3"


def _policy_content(lake: Lake) -> bytes:
    """What besides stage outputs decides a release: consent of every row, and the pinned swap pairs."""
    rows = lake.faces.snapshot().dataset.to_table(columns=["image_id", "identity", "consent"]).to_pylist()
    consent = sorted((row["image_id"], row["identity"], row["consent"]) for row in rows)
    pairs = [(row["pair_id"], row["source_image_id"], row["target_image_id"]) for row in _pinned_pairs(lake)]
    return digest_json([consent, pairs])


def _pinned_pairs(lake: Lake) -> list[dict[str, Any]]:
    return pinned_pairs(lake, "evaluation", ["source_image_id", "target_image_id"])


def _build(
    context: StageContext,
    fingerprint: bytes,
    config: ReleaseConfig,
    recipe: str | None,
    needed: Sequence[str],
) -> Artifact:
    lake = context.lake
    stage, triplet_table, swap_table = (of_recipe(name, recipe) for name in ("release", "triplets", "swaps"))
    snapshot = lake.faces.snapshot()
    usable, excluded = _select(snapshot, config, needed)
    pinned = _pinned_pairs(lake)
    swap_pairs, missing = _swap_pairs(pinned, usable, config)
    held_out = {usable[row["source_image_id"]] for row in swap_pairs}
    held_out |= {usable[row["target_image_id"]] for row in swap_pairs}
    if not (pinned and config.hold_out_swap_people):
        held_out = set()
    training = {image_id: person for image_id, person in usable.items() if person not in held_out}
    if len(set(training.values())) < 2:
        raise LakeError(
            f"only {len(set(training.values()))} people may be trained on ({dict(excluded)} rows were left "
            "out); ingest more photographs, or state why these may be used: "
            "`orchard ingest PATH --consent subject_consented`"
        )
    triplets = _triplet_pairs(training, config)
    # from here on the pair tables are this release's, whether it is finished or not
    lake.announce_artifact(Artifact(stage, fingerprint, bytes(DIGEST_BYTES), CODE_VERSION))
    crash_point("mid_release")
    size = config.pair_shard_size
    sync_pairs(lake.table(triplet_table), triplets, TRIPLETS_SCHEMA, size, triplet_table)
    crash_point("mid_release")
    requests = [
        {**pair, "pair_id": f"{pair['pair_id']}__{method}", "method": method}
        for pair in swap_pairs
        for method in METHODS
    ]
    sync_pairs(lake.table(swap_table), requests, SWAPS_SCHEMA, size, swap_table)
    crash_point("mid_release")
    if recipe is None:  # DiffFace depends on no recipe: it swaps each pair once
        sync_pairs(lake.diffface_swaps, swap_pairs, DIFFFACE_SWAPS_SCHEMA, size, "diffface_swaps")
        crash_point("mid_release")
    rows = sorted((image_id, person, "train") for image_id, person in training.items())
    rows += sorted((i, person, "held_out") for i, person in usable.items() if person in held_out)
    location = _write_rows(lake, rows)
    crash_point("mid_release")
    digest = digest_json([rows, _row_digests(snapshot, usable, needed), triplets, requests])
    tag = "-".join(filter(None, ("release", recipe, digest.hex()[:12])))
    lake.faces.tag(tag, snapshot.version)
    crash_point("mid_release")
    if missing:
        context.report(f"{stage}: {missing} swap pairs name photographs that are not usable; left out")
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=digest,
        code_version=CODE_VERSION,
        location=location,
        metadata={
            "version": snapshot.version,
            "tag": tag,
            "training_rows": len(training),
            "training_people": len(set(training.values())),
            "held_out_people": len(held_out),
            "excluded": dict(sorted(excluded.items())),
            "triplets": len(triplets),
            "swap_pairs": len(swap_pairs),
        },
    )


def _select(
    snapshot: Snapshot, config: ReleaseConfig, needed: Sequence[str]
) -> tuple[dict[str, str], Counter[str]]:
    """Usable rows as {image_id: person}, and how many were left out for which reason."""
    statuses = [f"{state_column(stage)}.status" for stage in needed]
    rows = snapshot.scan(["image_id", "identity", "consent", "aesthetic_score", *statuses]).to_pylist()
    usable: dict[str, str] = {}
    excluded: Counter[str] = Counter()
    for row in rows:
        if row["consent"] not in GENERATIVE_CONSENTS:
            excluded[f"consent {row['consent']}"] += 1
        elif any(row[name] != Status.OK.value for name in statuses):
            excluded["not annotated"] += 1
        elif (row["aesthetic_score"] or 0.0) <= config.min_aesthetic_score:
            excluded["aesthetic score"] += 1
        else:
            usable[row["image_id"]] = row["identity"]
    return usable, excluded


def _swap_pairs(
    pinned: list[dict[str, Any]], usable: dict[str, str], config: ReleaseConfig
) -> tuple[list[dict[str, Any]], int]:
    """The ingested list where there is one (usable pairs only), else pairs drawn from the lake."""
    if pinned:
        kept = [
            row for row in pinned if row["source_image_id"] in usable and row["target_image_id"] in usable
        ]
        return sorted(kept, key=lambda row: row["pair_id"]), len(pinned) - len(kept)
    return _drawn_pairs(_photos_by_person(usable), config.swap_pairs, config.seed + 1), 0


def _triplet_pairs(training: dict[str, str], config: ReleaseConfig) -> list[dict[str, Any]]:
    photos = {person: ids for person, ids in _photos_by_person(training).items() if len(ids) > 1}
    return _drawn_pairs(photos, config.triplets, config.seed)


def _drawn_pairs(photos: dict[str, list[str]], count: int, seed: int) -> list[dict[str, Any]]:
    if len(photos) < 2:
        raise LakeError(
            f"pairs need at least two people, the usable rows offer {len(photos)} (for a triplet a person "
            "needs two photographs); ingest more, in one folder per person"
        )
    table = PairStream(photos, seed=seed).pair_table(count)
    pairs = zip(table.source_photo.tolist(), table.target_photo.tolist(), strict=True)
    return [_pair_row(source, target) for source, target in pairs]


def _photos_by_person(rows: dict[str, str]) -> dict[str, list[str]]:
    photos: dict[str, list[str]] = {}
    for image_id, person in sorted(rows.items()):
        photos.setdefault(person, []).append(image_id)
    return photos


def _pair_row(source: str, target: str) -> dict[str, Any]:
    return {"pair_id": f"{source}__{target}", "source_image_id": source, "target_image_id": target}


def _row_digests(snapshot: Snapshot, usable: dict[str, str], needed: Sequence[str]) -> list[list[str]]:
    """What the used rows hold: a release is the same as long as none of this changes."""
    names = [f"{state_column(stage)}.digest" for stage in needed]
    rows = snapshot.scan(["image_id", *names]).to_pylist()
    return sorted(
        [row["image_id"], *(row[name].hex() for name in names)] for row in rows if row["image_id"] in usable
    )


def _write_rows(lake: Lake, rows: list[tuple[str, str, str]]) -> str:
    """Keep the list of released rows beside the lake."""
    columns = list(zip(*rows, strict=True))
    table = pa.table({"image_id": columns[0], "identity": columns[1], "use": columns[2]})
    return keep_list(lake, table, digest_json(rows).hex()[:16])


def keep_list(lake: Lake, table: pa.Table, name: str) -> str:
    """Write a list of what was released, whole or not at all, under a name that its content gives.

    Returns its location in the lake.
    """
    path = lake.folder("releases") / f"{name}.parquet"
    temporary = path.with_suffix(".unfinished")
    pq.write_table(table, temporary)
    crash_point("mid_release")
    temporary.replace(path)
    return lake.publish(path)


def released_rows(lake: Lake, release: Artifact, use: str) -> tuple[list[str], np.ndarray]:
    """Image ids and people of a release's rows for one use ("train" or "held_out"), in stable order."""
    if release.location is None:
        raise LakeError("the release has no list of rows; run `orchard run release --force`")
    table = pq.read_table(lake.fetch(release.location))
    rows = [row for row in table.to_pylist() if row["use"] == use]
    return [row["image_id"] for row in rows], np.array([row["identity"] for row in rows])
