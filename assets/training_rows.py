"""Released rows as arrays: what teacher and student learn from, read at the release's pinned version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assets.batches import column_values
from assets.release import released_rows
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake


@dataclass(frozen=True)
class TrainingRows:
    """N released photographs: ids, people, latents (N, L, C) float16, embeddings (N, D) float32."""

    image_ids: list[str]
    people: np.ndarray
    target_NLC: np.ndarray
    condition_NLC: np.ndarray
    identity_ND: np.ndarray


def training_rows(lake: Lake, release: Artifact, tokens: int) -> TrainingRows:
    """Read the training rows of a release at the version it pinned; `tokens` is L, the model's."""
    image_ids, people = released_rows(lake, release, "train")
    snapshot = lake.faces.snapshot(int(release.metadata["version"]))
    names = ["latent_target", "latent_condition", "identity_embedding"]
    scanned = snapshot.scan(["image_id"])
    handles = dict(zip(scanned["image_id"].to_pylist(), scanned["_rowid"].to_pylist(), strict=True))
    read = snapshot.read_table([handles[image_id] for image_id in image_ids], names)
    target, condition, identity = (np.stack(column_values(read[name])) for name in names)
    return TrainingRows(
        image_ids=image_ids,
        people=people,
        target_NLC=target.reshape(len(image_ids), tokens, -1),
        condition_NLC=condition.reshape(len(image_ids), tokens, -1),
        identity_ND=identity,
    )


def need_artifact(lake: Lake, stage: str) -> Artifact:
    """The current artifact of a stage. Raises LakeError when it was never made."""
    artifact = lake.current_artifact(stage)
    if artifact is None:
        raise LakeError(f"there is no {stage} in {lake.uri} yet; `orchard run` makes it")
    return artifact
