"""Condition images of pairs: the target's, with landmarks in the source's face shape.

They depend on both photographs, so they are drawn and encoded where a pair is swapped and never stored. The
rest of the picture (photo, masks, irises) is the target's own, as in `condition`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from assets.condition import ConditionStageConfig, row_frame
from assets.latents import encode_pictures
from assets.stage import Input, Row, RowStage, StageConfig, StageContext
from assets.swapping import SOURCE, TARGET
from models.faces.frame import frame_condition
from models.faces.images import Points

if TYPE_CHECKING:  # torch loads when pairs are swapped
    from models.swap.codec import LatentCodec

PAIR_CONDITION = "latent_condition_of_pair"
"""Name of the latents in a row, as if it were a column of the target."""

MESH, COEFFICIENTS = "landmarks_68_3d", "coefficients_257"


class PairConditionConfig(StageConfig):
    """How the source's shape gets into the target's pose and expression."""

    condition: ConditionStageConfig = Field(description="The frame and its condition image.")
    shape: Literal["points", "coefficients"] = Field(
        description="points: the source's 68 points in three dimensions, laid onto the target's. "
        "coefficients: the morphable model's, the source's identity with the target's expression and pose."
    )

    @property
    def weights(self) -> tuple[str, ...]:
        """Weight roles that it needs."""
        return ("face_model",) if self.shape == "coefficients" else ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it reads of both photographs. The target's pixels are covered by the digest of its latents."""
        points = (MESH,) if self.shape == "points" else (COEFFICIENTS,)
        more = () if self.shape == "points" else ("mesh_478",)
        return (
            Input("landmarks", points, via=SOURCE),
            Input("landmarks", (*points, *more), via=TARGET),
            Input("iris", ("iris_10",), via=TARGET),
            Input("masks", ("parsing", "visible_face"), via=TARGET),
        )


def pair_condition_config(
    condition: ConditionStageConfig, annotation: Sequence[RowStage]
) -> PairConditionConfig:
    """By the morphable model's coefficients where the profile's annotation has them, else by points."""
    columns = {column.name for stage in annotation for column in stage.outputs}
    return PairConditionConfig(
        condition=condition, shape="coefficients" if COEFFICIENTS in columns else "points"
    )


class PairCondition:
    """Draws and encodes the condition images of a batch of pairs."""

    def __init__(self, config: PairConditionConfig, context: StageContext) -> None:
        self.config = config
        self.geometry = None
        if config.shape == "coefficients":
            from models.faces.reconstruction.bfm import load_face_model
            from models.faces.reconstruction.geometry import FaceGeometry

            self.geometry = FaceGeometry(load_face_model(context.weight("face_model")))

    def added_to(self, rows: Sequence[Row], codec: LatentCodec) -> list[Row]:
        """The rows with `PAIR_CONDITION` among the target's columns."""
        config = self.config.condition
        conditions = []
        for row in rows:
            target = {
                name.removeprefix(f"{TARGET}."): value
                for name, value in row.items()
                if name.startswith(f"{TARGET}.")
            }
            frame = row_frame(target | {"landmarks_68": self._points(row)}, config.size)
            conditions.append(frame_condition(frame, config.image))
        encoded = encode_pictures(codec, conditions)
        return [
            {**row, f"{TARGET}.{PAIR_CONDITION}": latents} for row, latents in zip(rows, encoded, strict=True)
        ]

    def _points(self, row: Row) -> Points:
        """The 68 points of the source's shape in the target's photograph, (68, 2) pixels."""
        from models.faces.shape_transfer import project_shape, transfer_shape

        if self.geometry is None:
            source, target = (row[f"{side}.{MESH}"].reshape(68, 3) for side in (SOURCE, TARGET))
            return transfer_shape(source, target)
        from models.faces.landmarks import landmarks_68_from_mesh
        from models.faces.reconstruction.five_points import align_five_points, five_points_of_68

        mesh_68 = landmarks_68_from_mesh(row[f"{TARGET}.mesh_478"].reshape(478, 3))
        size = row[f"{TARGET}.image"].shape[:2]
        alignment = align_five_points(five_points_of_68(mesh_68[:, :2]), size)
        source, target = (np.asarray(row[f"{side}.{COEFFICIENTS}"]) for side in (SOURCE, TARGET))
        return project_shape(self.geometry, source, target, alignment)
