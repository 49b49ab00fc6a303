"""`condition`: the parameters of the condition image, and the proof that it can be rendered.

The picture itself is never stored: it is rendered where it is used, from photo, masks, landmarks and iris.
Its SHA-256 is stored, so that what reads it becomes stale exactly when a pixel of it would change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field

from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.faces.condition import ConditionRecipe
from models.faces.frame import FaceFrame, face_frame, frame_condition
from models.faces.parsing import decode_codes, unpack_mask
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError


class ConditionStageConfig(StageConfig):
    """Which condition image is rendered, and at which side length."""

    image: ConditionRecipe = Field(
        default=ConditionRecipe(), description="Which condition image, and how its dots are drawn."
    )
    size: int = Field(
        ge=16, description="Side of the square frame, px; the photo is resized to it before drawing."
    )


PREVIEW_SIZE = 256
"""Previews are drawn at this side length with the paper's dots, whatever the model's size is."""

CONDITION_INPUTS = (
    Input("faces", ("image",)),
    Input("landmarks", ("landmarks_68",)),
    Input("iris", ("iris_10",)),
    Input("masks", ("parsing", "visible_face")),
)
"""What a condition image is rendered from."""


TARGET_COLUMN = "latent_target"
"""Latents of the photograph itself; they do not depend on the condition image."""


@dataclass(frozen=True)
class ConditionNames:
    """Stages and columns of one condition image: those of another than the profile's own carry its name."""

    name: str | None = None

    @property
    def condition(self) -> str:
        """The stage that renders it."""
        return self._named("condition")

    @property
    def recipe(self) -> str:
        """The column of what it was drawn by."""
        return self._named("condition") + "_recipe"

    @property
    def sha256(self) -> str:
        """The column of its digest."""
        return self._named("condition") + "_sha256"

    @property
    def latents(self) -> str:
        """The stage that encodes it."""
        return self._named("latents")

    @property
    def column(self) -> str:
        """The column of its latents."""
        return self._named("latent_condition")

    def _named(self, word: str) -> str:
        return word if self.name is None else f"{word}_{self.name}"


OWN_CONDITION = ConditionNames()
"""The condition image of a profile's default recipe."""


def condition_stage(config: ConditionStageConfig, names: ConditionNames = OWN_CONDITION) -> RowStage:
    """The stage `condition`: renders each condition image once and keeps its recipe and digest."""

    def load(context: StageContext):
        def render(rows: Sequence[Row]) -> list[RowOutcome]:
            return [_describe(row, config, names) for row in rows]

        return render

    return RowStage(
        name=names.condition,
        code_version="2",
        description="Parameters and digest of the condition image: face squeezed to 8x8, landmarks, iris.",
        config=config,
        inputs=CONDITION_INPUTS,
        outputs=(
            Column(names.recipe, pa.string()),
            Column(names.sha256, pa.string()),
            *((FACE_FRACTION,) if names == OWN_CONDITION else ()),
        ),
        load=load,
        preview=lambda row: frame_condition(
            row_frame(row, PREVIEW_SIZE),
            config.image.model_copy(update={"landmark_radius": None, "iris_radius": None}),
        ),
    )


FACE_FRACTION = Column("face_fraction", pa.float32(), quantum=1e-3)
"""How much of the frame the hidden face takes; the same for all condition images."""


def row_frame(row: Row, size: int) -> FaceFrame:
    """The frame of one lake row: its photo and stored annotation at `size` pixels."""
    height, width = row["image"].shape[:2]
    return face_frame(
        row["image"],
        decode_codes(row["parsing"], (height, width)),
        unpack_mask(row["visible_face"], (height, width)),
        row["landmarks_68"].reshape(68, 2),
        row["iris_10"].reshape(10, 2),
        size,
    )


def _describe(row: Row, config: ConditionStageConfig, names: ConditionNames) -> RowOutcome:
    frame = row_frame(row, config.size)
    if frame.face_fraction == 0.0:
        return RowError(Reason.FACE_TOO_SMALL, f"no pixel of the face is left at {config.size} px")
    described = {
        names.recipe: config.image.model_dump_json(),
        names.sha256: hashlib.sha256(frame_condition(frame, config.image).tobytes()).hexdigest(),
    }
    return described | ({FACE_FRACTION.name: frame.face_fraction} if names == OWN_CONDITION else {})
