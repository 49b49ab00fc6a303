"""What a recipe wants to learn from, out of the lake: data of teacher and student, and their validation.

References and points are read for an identity loss alone, photographs for occluders alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from assets.condition import OWN_CONDITION, ConditionNames
from assets.feeding import PixelRows
from assets.row_reader import RowReader
from assets.training import TrainingConfig
from assets.training_rows import TrainingRows, row_ids_of, rows_of, training_rows
from models.faces.condition import ConditionRecipe
from models.faces.frame import FaceFrame, square_picture
from models.identity.loss_networks import LossNetworkName, frame_points
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe, recipe_of
from resources.lake.table import ROW_ID
from resources.photos.decoding import decode_upright

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from models.swap.base import SwapBase
    from models.swap.data import Rows, StudentData, TeacherData, TrainingData, ValidationRows
    from models.swap.occlusion import OccludedPictures


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
        drawn = photos.rows.reader.rows(np.array([0]), [names.recipe])[0]
        dots = ConditionRecipe.model_validate_json(drawn[names.recipe])
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
    reader = RowReader(snapshot, row_ids_of(snapshot, pair_ids))
    places = {image_id: place for place, image_id in enumerate(photos.rows.image_ids)}
    named = reader.read(np.arange(len(reader)), ["target_image_id"])["target_image_id"].to_pylist()
    targets = np.array([places.get(image_id, -1) for image_id in named], np.int64)
    if not len(targets) or targets.min() < 0:
        raise LakeError(
            "the triplets do not belong to the current release; run `orchard run pseudo_triplets "
            "triplets_release student`"
        )
    data = StudentData(
        rows_of(reader, "swapped_latents", (base.config.image_tokens, -1)),
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

    pictures = StudentPictures(
        _TargetFrames(photos, targets), _SwappedPictures(reader, base.config.image_size)
    )
    return _prepared(data, pictures if recipe.occlusion else None, base, config)


@dataclass(frozen=True)
class _TargetFrames:
    """The photograph that a triplet was swapped onto; a class, so that processes can be sent it."""

    photos: ReleasedPhotos
    target_M: np.ndarray

    def __call__(self, triplet: int) -> FaceFrame:
        return self.photos.frame(int(self.target_M[triplet]))


@dataclass(frozen=True)
class _SwappedPictures:
    """The swapped picture of a triplet, uint8 RGB (S, S, 3)."""

    reader: RowReader
    size: int

    def __call__(self, triplet: int) -> np.ndarray:
        row = self.reader.rows(np.array([triplet]), ["swapped"])[0]
        return square_picture(decode_upright(row["swapped"]), self.size)


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
        snapshot = self.rows.reader.snapshot
        if column not in snapshot.columns:
            return set()
        scanned = snapshot.scan([column])
        ours = np.isin(scanned[ROW_ID].to_numpy(), self.rows.reader.row_ids)
        return {str(name) for name in scanned[column].filter(pa.array(ours)).unique().to_pylist()}

    def points(self) -> Rows | None:
        """Five points of every photograph in the model's frame, for an aligned crop."""
        encoder = self._config.face_encoder
        if not self._config.recipe.needs_identity_network or encoder.crop != "aligned":
            return None
        return FramePoints(self.rows.reader, encoder.network, self.size)

    def frame(self, photo: int) -> FaceFrame:
        """One photograph at the model's size, with masks and points."""
        return PixelRows(self.rows.reader, self.size).frames(np.array([photo]))[0]


class FramePoints:
    """Five points of photographs in the model's frame, (N, 5, 2), from the lake's 68 landmarks."""

    def __init__(self, reader: RowReader, network: LossNetworkName, frame_size: int) -> None:
        self._landmarks = rows_of(reader, "landmarks_68", (68, 2))
        read = reader.read(np.arange(len(reader)), ["width", "height"])
        self._sizes_N2 = np.stack([read[name].to_numpy() for name in ("width", "height")], axis=1)
        self._network: LossNetworkName = network
        self._frame_size = frame_size

    def __len__(self) -> int:
        """How many photographs there are."""
        return len(self._sizes_N2)

    def __getitem__(self, places_B: np.ndarray) -> np.ndarray:
        """Points of the named photographs, in that order."""
        landmarks = self._landmarks[places_B].astype(np.float32)
        return frame_points(self._network, landmarks, self._sizes_N2[places_B], self._frame_size)
