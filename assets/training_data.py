"""What a recipe wants to learn from, out of the lake: data of teacher and student, and their validation.

References and points are read for an identity loss alone, photographs for occluders alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from assets.batches import merge_columns
from assets.condition import CONDITION_INPUTS, OWN_CONDITION, ConditionNames, row_frame
from assets.training import TrainingConfig
from assets.training_rows import TrainingRows, row_ids_of, rows_of, training_rows
from models.faces.condition import ConditionRecipe
from models.faces.frame import FaceFrame, square_picture
from models.identity.loss_networks import LossNetworkName, frame_points
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe, recipe_of
from resources.lake.table import Snapshot
from resources.photos.decoding import decode_upright

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from models.swap.base import SwapBase
    from models.swap.data import Rows, StudentData, TeacherData, TrainingData, ValidationRows
    from models.swap.occlusion import OccludedPictures

FRAME_COLUMNS = tuple(column for item in CONDITION_INPUTS for column in item.columns)


@dataclass(frozen=True)
class Prepared:
    """Data to train on, and the held-out pairs of its validation where the recipe gets to one."""

    data: TrainingData
    validation: ValidationRows | None


def teacher_data(
    lake: Lake,
    release: Artifact,
    base: SwapBase,
    config: TrainingConfig,
    names: ConditionNames = OWN_CONDITION,
) -> Prepared:
    """The photographs of a release with the condition image of that name, as the teacher's recipe wants.

    Raises LakeError when the recipe wants what the lake does not have.
    """
    from models.swap.data import TeacherData
    from models.swap.occlusion import TeacherPictures

    recipe = config.recipe
    photos = ReleasedPhotos(lake, release, base, config, names)
    data = TeacherData(
        photos.rows.target_NLC,
        photos.rows.condition_NLC,
        photos.rows.identity_ND,
        photos.rows.people,
        reference_ND=photos.reference(),
        points_N52=photos.points(),
        source_may_be_target=recipe.source_may_be_target,
        held_out=recipe.validation_images if recipe.validates else 0,
        seed=recipe.seed,
    )
    pictures = None
    if recipe.occlusion:
        drawn = photos.snapshot.read_table(photos.row_ids[:1].tolist(), [names.recipe])
        dots = ConditionRecipe.model_validate_json(drawn[names.recipe].to_pylist()[0])
        pictures = TeacherPictures(photos.frame, dots)
    return _prepared(data, pictures, base, config)


def student_data(
    lake: Lake,
    release: Artifact,
    triplets: Artifact,
    pair_ids: list[str],
    base: SwapBase,
    config: TrainingConfig,
) -> Prepared:
    """The named pseudo triplets of a release of triplets, as the student's recipe wants them.

    Raises LakeError when they are not of this release, or the recipe wants what the lake does not have.
    """
    from models.swap.data import StudentData
    from models.swap.occlusion import StudentPictures

    recipe = config.recipe
    photos = ReleasedPhotos(lake, release, base, config)
    table = lake.table(of_recipe("triplets", recipe_of(triplets.stage)))
    snapshot = table.snapshot(int(triplets.metadata["version"]))
    row_ids = row_ids_of(snapshot, pair_ids)
    places = {image_id: place for place, image_id in enumerate(photos.rows.image_ids)}
    named = snapshot.read_table(row_ids.tolist(), ["target_image_id"])["target_image_id"].to_pylist()
    targets = np.array([places.get(image_id, -1) for image_id in named], np.int64)
    if not len(targets) or targets.min() < 0:
        raise LakeError(
            "the triplets do not belong to the current release; run `orchard run pseudo_triplets "
            "triplets_release student`"
        )
    data = StudentData(
        rows_of(snapshot, row_ids, "swapped_latents", (base.config.image_tokens, -1)),
        targets,
        photos.rows.target_NLC,
        photos.rows.identity_ND,
        photos.rows.people,
        reference_ND=photos.reference(),
        points_N52=photos.points(),
        source_may_be_target=recipe.source_may_be_target,
        held_out=recipe.validation_images if recipe.validates else 0,
        seed=recipe.seed,
    )

    def swapped(triplet: int) -> np.ndarray:
        read = snapshot.read_table([int(row_ids[triplet])], ["swapped"])
        return square_picture(decode_upright(read["swapped"].to_pylist()[0]), base.config.image_size)

    pictures = StudentPictures(lambda triplet: photos.frame(int(targets[triplet])), swapped)
    return _prepared(data, pictures if recipe.occlusion else None, base, config)


def _prepared(
    data: TeacherData | StudentData, pictures: OccludedPictures | None, base: SwapBase, config: TrainingConfig
) -> Prepared:
    from models.swap.occlusion import OccludedData

    recipe = config.recipe
    validation = None
    if recipe.validates:
        validation = data.validation(other_identity=recipe.validation_with_other_identity)
    if pictures is None:
        return Prepared(data, validation)
    return Prepared(OccludedData(data, recipe.occlusion, pictures, base.codec), validation)


class ReleasedPhotos:
    """The photographs of a release: their latents, and what losses and occluders need besides."""

    def __init__(
        self,
        lake: Lake,
        release: Artifact,
        base: SwapBase,
        config: TrainingConfig,
        names: ConditionNames = OWN_CONDITION,
    ) -> None:
        tokens = base.config.image_tokens
        self.rows: TrainingRows = training_rows(lake, release, tokens, names.column)
        self.snapshot: Snapshot = lake.faces.snapshot(int(release.metadata["version"]))
        self.row_ids = row_ids_of(self.snapshot, self.rows.image_ids)
        self.size, self._config = base.config.image_size, config

    def reference(self) -> Rows | None:
        """The loss network's own embeddings; None where those of the identity path are the very same.

        Embeddings of two networks, or of two crops, cannot be compared, so who made them is read as well.
        """
        encoder = self._config.face_encoder
        if not self._config.recipe.needs_identity_network:
            return None
        embedders = self._made_by("identity_embedder")
        if embedders and all(encoder.embeds_as(name) for name in embedders):
            return None
        if self.rows.reference_ND is None:
            raise LakeError(
                f"the identity loss of {encoder.label} needs its own embeddings of the photographs, and this "
                f"lake has those of {', '.join(sorted(embedders)) or 'an unnamed embedder'} alone: give the "
                "profile the stage identity_reference and run `orchard run identity_reference`, or set "
                "identity_loss_weight to 0"
            )
        networks = self._made_by("identity_reference_network")
        if networks != {encoder.label}:
            raise LakeError(
                f"the identity loss is of {encoder.label}, but identity_reference is of "
                f"{', '.join(sorted(networks)) or 'an unnamed network'}; set both to one network and crop, "
                "and run `orchard run identity_reference`"
            )
        return self.rows.reference_ND

    def _made_by(self, column: str) -> set[str]:
        """Who made the embeddings of the released photographs, by the column that records it."""
        if column not in self.snapshot.columns:
            return set()
        scanned = self.snapshot.scan([column])
        ours = np.isin(scanned["_rowid"].to_numpy(), self.row_ids)
        return {str(name) for name in scanned[column].filter(pa.array(ours)).unique().to_pylist()}

    def points(self) -> Rows | None:
        """Five points of every photograph in the model's frame, for an aligned crop."""
        encoder = self._config.face_encoder
        if not self._config.recipe.needs_identity_network or encoder.crop != "aligned":
            return None
        return FramePoints(self.snapshot, self.row_ids, encoder.network, self.size)

    def frame(self, photo: int) -> FaceFrame:
        """One photograph at the model's size, with masks and points."""
        values: list[dict] = [{}]
        read = self.snapshot.read_table([int(self.row_ids[photo])], FRAME_COLUMNS)
        merge_columns(values, read, {name: name for name in FRAME_COLUMNS})
        row = values[0] | {"image": decode_upright(values[0]["image"])}
        return row_frame(row, self.size)


class FramePoints:
    """Five points of photographs in the model's frame, (N, 5, 2), from the lake's 68 landmarks."""

    def __init__(
        self, snapshot: Snapshot, row_ids: np.ndarray, network: LossNetworkName, frame_size: int
    ) -> None:
        self._landmarks = rows_of(snapshot, row_ids, "landmarks_68", (68, 2))
        scanned = snapshot.scan(["width", "height"])
        sizes = np.stack([scanned[name].to_numpy() for name in ("width", "height")], axis=1)
        order = np.argsort(scanned["_rowid"].to_numpy())
        found = np.searchsorted(scanned["_rowid"].to_numpy(), row_ids, sorter=order)
        self._sizes_N2 = sizes[order[found]]
        self._network: LossNetworkName = network
        self._frame_size = frame_size

    def __len__(self) -> int:
        """How many photographs there are."""
        return len(self._sizes_N2)

    def __getitem__(self, places_B: np.ndarray) -> np.ndarray:
        """Points of the named photographs, in that order."""
        landmarks = self._landmarks[places_B].astype(np.float32)
        return frame_points(self._network, landmarks, self._sizes_N2[places_B], self._frame_size)
