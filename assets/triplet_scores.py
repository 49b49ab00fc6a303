"""`triplet_scores`: how good a pseudo triplet's picture is: whose face, and what of the target it kept.

The swapped picture goes through the very stages that annotate the lake's photographs, and its annotation is
compared with that of source and target. Before, it is brought to the size of the target photograph.

A picture in which the swapped face is not found is a result, not a failure: a row that is ok, with
`face_found` false, the reason beside it, and no scores. The triplet itself stays; a release that filters by
a score leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.annotating import (
    AnnotationRecipe,
    annotate_pictures,
    annotation_recipes,
    in_shape,
    lies_on,
    mesh_centre,
)
from assets.landmarks import FACE_AT
from assets.runner import load_model
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext, StageGraph
from assets.swapping import SOURCE, TARGET
from models.faces.frame import square_picture
from models.faces.overlays import draw_caption
from models.metrics.attributes import (
    expression_coefficient_difference,
    expression_mesh_difference,
    pose_difference,
)
from models.metrics.identity import identity_similarity
from resources.lake.recipes import of_recipe
from resources.lake.schema import Column
from resources.photos.decoding import DecodeLimits, decode_upright
from resources.photos.reasons import Reason, RowError

SCORED_BY = ("landmarks", "aesthetics", "identity_embedding")
"""Stages whose results are compared; what they depend on is the profile's business."""

SCORES = (
    Column("identity_similarity", pa.float32(), quantum=1e-3, optional=True),
    Column("identity_leak", pa.float32(), quantum=1e-3, optional=True),
    Column("pose_difference", pa.float32(), quantum=0.05, optional=True),
    Column("expression_difference", pa.float32(), quantum=1e-3, optional=True),
    Column("swap_aesthetic_score", pa.float32(), quantum=0.01, optional=True),
)
"""Missing where the face was not found."""

MESH, COEFFICIENTS = "mesh_478", "coefficients_257"
ARCFACE = "arcface_512"

BATCH_SIZE = 16
SMALL_PICTURES = DecodeLimits(min_side=1)
PREVIEW_SIZE = 256


class TripletScoresConfig(StageConfig):
    """How swapped pictures are looked at."""

    long_side: int = Field(
        default=512,
        ge=64,
        description="Swapped pictures are brought to the size of their target photograph, but to no longer "
        "side than this, px.",
    )
    identity: str = Field(
        default="identity_embedding",
        description="Column whose cosine tells likeness: an embedder's numbers, not tokens made of them.",
    )
    expression: Literal["mesh", "coefficients"] = Field(
        default="mesh",
        description="mesh: lips, lids and brows of the 478 points with the pose taken out, in inter-ocular "
        "distances. coefficients: distance of the 3DMM's 64 expression coefficients.",
    )
    annotation: tuple[AnnotationRecipe, ...] = Field(
        default=(), description="Filled in by the stage: what the annotation stages compute with."
    )


def scores_config(annotation: Sequence[RowStage]) -> TripletScoresConfig:
    """How a profile's annotation scores best: by ArcFace and expression coefficients where it has them."""
    columns = {column.name for stage in annotation for column in stage.outputs}
    return TripletScoresConfig(
        identity=ARCFACE if ARCFACE in columns else "identity_embedding",
        expression="coefficients" if COEFFICIENTS in columns else "mesh",
    )


def triplet_scores_stage(
    config: TripletScoresConfig,
    annotation: Sequence[RowStage],
    recipe: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> RowStage:
    """The stage `triplet_scores` of a recipe, one row per triplet; `annotation` are the profile's stages."""
    graph = StageGraph(tuple(annotation)).needed_for(SCORED_BY)
    stages = graph.row_stages()
    points = (MESH, "pose", *([COEFFICIENTS] if config.expression == "coefficients" else []))

    def load(context: StageContext) -> TripletScorer:
        return TripletScorer(config, graph, context)

    return RowStage(
        name=of_recipe("triplet_scores", recipe),
        code_version="1",
        table=of_recipe("triplets", recipe),
        description="Scores of each swapped picture: identity, leak, pose, expression, aesthetics.",
        config=config.model_copy(update={"annotation": annotation_recipes(graph)}),
        inputs=(
            Input(of_recipe("pseudo_triplets", recipe), ("swapped",)),
            Input("faces", ("width", "height"), via=TARGET, tracked=False),
            Input("identity_embedding", (config.identity,), via=SOURCE),
            Input("identity_embedding", (config.identity,), via=TARGET),
            Input("landmarks", points, via=TARGET),
        ),
        weights=tuple(dict.fromkeys(role for stage in stages for role in stage.weights)),
        outputs=(
            Column("face_found", pa.bool_()),
            Column("face_reason", pa.string(), optional=True),
            *SCORES,
        ),
        load=load,
        batch_size=batch_size,
        preview=_preview,
    )


class TripletScorer:
    """The annotation models, loaded once per process, and the comparison."""

    def __init__(self, config: TripletScoresConfig, graph: StageGraph, context: StageContext) -> None:
        self.config, self.graph, self.context = config, graph, context

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per triplet, in order."""
        context = self.context
        found = annotate_pictures(
            [_picture(row, self.config.long_side) for row in rows],
            self.graph,
            lambda stage: load_model(context.lake, self.graph, stage, context.device, context.report),
        )
        return [self._score(row, picture) for row, picture in zip(rows, found, strict=True)]

    def _score(self, row: Row, found: Row | RowError) -> RowOutcome:
        missing: dict[str, Any] = dict.fromkeys(column.name for column in SCORES)
        if not isinstance(found, RowError) and not _is_swapped_face(row, found):
            found = RowError(Reason.NO_FACE, "a face was found, but not where the target's is")
        if isinstance(found, RowError):
            return {"face_found": False, "face_reason": found.reason.value, **missing}
        embedding = self.config.identity
        likeness = {
            side: float(identity_similarity(found[embedding][None], row[f"{side}.{embedding}"][None])[0])
            for side in (SOURCE, TARGET)
        }
        return {
            "face_found": True,
            "face_reason": None,
            "identity_similarity": likeness[SOURCE],
            "identity_leak": likeness[TARGET],
            "pose_difference": float(pose_difference(found["pose"][None], row[f"{TARGET}.pose"][None])[0]),
            "expression_difference": self._expression(row, found),
            "swap_aesthetic_score": float(found["aesthetic_score"]),
        }

    def _expression(self, row: Row, found: Row) -> float:
        if self.config.expression == "coefficients":
            import torch

            from models.faces.reconstruction.coefficients import split_coefficients

            both = np.stack([found[COEFFICIENTS], row[f"{TARGET}.{COEFFICIENTS}"]])
            mine, theirs = split_coefficients(torch.from_numpy(both)).expression_B64
            return float(expression_coefficient_difference(mine[None], theirs[None])[0])
        mine, theirs = (mesh.reshape(1, 478, 3) for mesh in (found[MESH], row[f"{TARGET}.{MESH}"]))
        return float(expression_mesh_difference(mine, theirs)[0])


def _picture(row: Row, long_side: int) -> Row:
    """The swapped picture in the shape of its target photograph, and where the swapped face must be."""
    swapped = decode_upright(row["swapped"], SMALL_PICTURES)
    width, height = int(row[f"{TARGET}.width"]), int(row[f"{TARGET}.height"])
    picture, scale = in_shape(swapped, width, height, long_side)
    x, y = mesh_centre(row[f"{TARGET}.{MESH}"]) * scale
    return {"image": picture, FACE_AT: (float(x), float(y))}


def _is_swapped_face(row: Row, found: Row) -> bool:
    """Whether the face that was found lies on the target's."""
    height, width = found["image"].shape[:2]
    scale = np.array([row[f"{TARGET}.width"] / width, row[f"{TARGET}.height"] / height, 1.0])
    return lies_on(found[MESH].reshape(478, 3) * scale, row[f"{TARGET}.{MESH}"])


def _preview(row: Row) -> np.ndarray:
    """The swapped picture with identity similarity and leak, RGB uint8."""
    picture = square_picture(decode_upright(row["swapped"], SMALL_PICTURES), PREVIEW_SIZE)
    if not row["face_found"]:
        return draw_caption(picture, str(row["face_reason"]))
    return draw_caption(picture, f"{row['identity_similarity']:.2f} / {row['identity_leak']:.2f}")
