"""`student`: APPLE's second model, trained on pseudo triplets; it needs no landmarks and no masks.

Its condition is a whole picture: in training the teacher's swap of a photo of A, with that photo as the
answer and the identity from another photo of A. It starts from the teacher's adapters.
"""

from __future__ import annotations

import numpy as np

from assets.batches import column_values
from assets.curves import loss_curve
from assets.stage import ArtifactStage, Input, StageContext
from assets.swap_base import PROMPTS_STAGE, open_base
from assets.training import TrainingConfig, checkpoint_folder, keep_losses_only, train_checkpoint
from assets.training_rows import need_artifact, training_rows
from assets.triplets_release import released_triplets
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact

CODE_VERSION = "2"


def student_stage(config: TrainingConfig) -> ArtifactStage:
    """The stage `student`: adapters trained on one release of triplets, from one teacher."""

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        from models.swap.checkpoint import load_checkpoint
        from models.swap.data import StudentData

        lake = context.lake
        release, teacher = need_artifact(lake, "release"), need_artifact(lake, "teacher")
        triplets = need_artifact(lake, "triplets_release")
        base = open_base(context, config.base)
        tokens = base.config.image_tokens
        rows = training_rows(lake, release, tokens)
        snapshot = lake.triplets.snapshot(int(triplets.metadata["version"]))
        handles = snapshot.scan(["pair_id"])
        row_ids = dict(zip(handles["pair_id"].to_pylist(), handles["_rowid"].to_pylist(), strict=True))
        read = snapshot.read_table(
            [row_ids[pair_id] for pair_id in released_triplets(lake, triplets)],
            ["target_image_id", "swapped_latents"],
        )
        places = {image_id: place for place, image_id in enumerate(rows.image_ids)}
        targets = [places.get(image_id, -1) for image_id in read["target_image_id"].to_pylist()]
        if not targets or min(targets) < 0:
            raise LakeError(
                "the triplets do not belong to the current release; run `orchard run pseudo_triplets "
                "triplets_release student`"
            )
        swapped = np.stack(column_values(read["swapped_latents"])).reshape(len(targets), tokens, -1)
        data = StudentData(swapped, np.asarray(targets), rows.target_NLC, rows.identity_ND, rows.people)
        return train_checkpoint(
            context,
            config,
            base,
            data,
            stage="student",
            code_version=CODE_VERSION,
            fingerprint=fingerprint,
            parents={"release": release, "teacher": teacher, "triplets_release": triplets},
            initial_lora=load_checkpoint(checkpoint_folder(lake, teacher))[0],
        )

    return ArtifactStage(
        name="student",
        code_version=CODE_VERSION,
        description="LoRA trained on pseudo triplets from the teacher's adapters: a clean picture in.",
        config=config,
        inputs=(Input(PROMPTS_STAGE), Input("release"), Input("teacher"), Input("triplets_release")),
        weights=config.base.roles,
        build=build,
        finish=keep_losses_only,
        preview=loss_curve,
    )
