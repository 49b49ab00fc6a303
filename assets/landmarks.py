"""`landmarks`: the face found, its mesh fitted, and from the mesh 68 landmarks, pose and alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.faces.choice import CLOSEST_DISTANCE
from models.faces.overlays import draw_landmarks
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

FACE_AT = "face_at"
"""Entry of a row that a lake's rows do not have: (x, y) px of the photo, the place of the face that is meant.

Whoever has chosen a face already (`orchard swap`) gives it; then no policy on several faces applies.
"""


class LandmarksConfig(StageConfig):
    """How faces are found and which are accepted."""

    detection_threshold: float = Field(
        default=0.35, gt=0, lt=1, description="Lowest detector score, 0..1; at 0.5 close-ups are missed."
    )
    detection_long_side: int = Field(
        default=960, ge=64, description="Photos are detected at most this large, px."
    )
    face: Literal["largest", "centre", "closest"] = Field(
        default="largest",
        description="Which face is taken when there are several; closest is the one most like `closest_to`.",
    )
    closest_to: tuple[float, ...] = Field(
        default=(), description="For closest: the wanted person's 128-d embedding, by dlib's network."
    )
    max_identity_distance: float = Field(
        default=CLOSEST_DISTANCE, gt=0, description="For closest: a face further from it is not the person."
    )
    several_faces: Literal["choose", "quarantine"] = Field(
        default="choose", description="Whether a photo with several faces is used at all."
    )
    min_inter_ocular: float = Field(
        default=12.0, ge=0, description="Smallest distance between the eye centres, px."
    )
    max_yaw: float = Field(default=75.0, gt=0, le=90, description="Largest head turn to a side, degrees.")

    @model_validator(mode="after")
    def _closest_to_somebody(self) -> Self:
        wanted = 128 if self.face == "closest" else 0
        if len(self.closest_to) != wanted:
            raise ValueError(
                f"face={self.face!r} takes {wanted} numbers in closest_to, not {len(self.closest_to)}"
            )
        return self


OUTPUTS = (
    Column("landmarks_68", pa.list_(pa.float32(), 136), quantum=1 / 16),
    Column("landmarks_68_3d", pa.list_(pa.float32(), 204), quantum=1 / 16),
    Column("mesh_478", pa.list_(pa.float32(), 1434), quantum=1 / 16),
    Column("pose", pa.list_(pa.float32(), 3), quantum=0.05),
    Column("alignment", pa.list_(pa.float32(), 6), quantum=1e-3),
    Column("face_box", pa.list_(pa.float32(), 4), quantum=1 / 4),
    Column("face_score", pa.float32(), quantum=1e-2),
    Column("face_count", pa.int16()),
)
"""Points in pixels of the upright photo (x right, y down), row-major; pose is yaw, pitch, roll in degrees."""


def landmarks_stage(config: LandmarksConfig) -> RowStage:
    """The stage `landmarks`: photo in, geometry out."""

    def load(context: StageContext) -> LandmarkModel:
        return LandmarkModel(config, context)

    return RowStage(
        name="landmarks",
        code_version="2",
        description="CenterFace finds the face, the 478-point mesh is fitted; 68 landmarks, pose, alignment.",
        config=config,
        inputs=(Input("faces", ("image",)),),
        weights=(
            "centerface",
            "face_landmarker",
            *(("dlib_face_recognition",) if config.face == "closest" else ()),
        ),
        outputs=OUTPUTS,
        load=load,
        preview=lambda row: draw_landmarks(row["image"], row["landmarks_68"].reshape(68, 2)),
    )


class LandmarkModel:
    """Detector and mesh, loaded once."""

    def __init__(self, config: LandmarksConfig, context: StageContext) -> None:
        from models.faces.detection import CenterFace
        from models.faces.mesh import FaceMesh

        self.config = config
        self.detector = CenterFace(context.weight("centerface"))
        self.mesh = FaceMesh(context.weight("face_landmarker"))
        self.embedder = None
        if config.face == "closest":
            from models.identity.embedding import IdentityEmbedder

            self.embedder = IdentityEmbedder(context.weight("dlib_face_recognition"), context.device)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        return [self._annotate(row["image"], row.get(FACE_AT)) for row in rows]

    def _annotate(self, image: np.ndarray, face_at: Sequence[float] | None) -> RowOutcome:
        from models.faces.alignment import align_to_ffhq
        from models.faces.landmarks import head_pose, inter_ocular_px, landmarks_68_from_mesh

        config = self.config
        found = self.detector.detect(
            image, score_threshold=config.detection_threshold, long_side=config.detection_long_side
        )
        if not len(found):
            return RowError(Reason.NO_FACE, f"no face scores {config.detection_threshold} or more")
        if len(found) > 1 and config.several_faces == "quarantine" and face_at is None:
            return RowError(Reason.SEVERAL_FACES, f"{len(found)} faces; the profile wants exactly one")
        chosen = (
            self._choose(image, found.boxes_N4)
            if face_at is None
            else nearest_box(found.boxes_N4, np.asarray(face_at))
        )
        if isinstance(chosen, RowError):
            return chosen
        fit = self.mesh.fit(image, found.boxes_N4[chosen])
        if fit is None:
            return RowError(Reason.NO_FACE, "the detector found a face on which no mesh could be fitted")
        distance = inter_ocular_px(fit.points_478x3)
        if distance < config.min_inter_ocular:
            return RowError(
                Reason.FACE_TOO_SMALL,
                f"the eyes are {distance:.1f} px apart, the profile wants {config.min_inter_ocular:g}",
            )
        yaw, pitch, roll = head_pose(fit.transform_4x4)
        if abs(yaw) > config.max_yaw:
            return RowError(Reason.EXTREME_POSE, f"yaw {yaw:.0f} degrees, the limit is {config.max_yaw:g}")
        landmarks_68_3d = landmarks_68_from_mesh(fit.points_478x3)
        return {
            "landmarks_68": landmarks_68_3d[:, :2],
            "landmarks_68_3d": landmarks_68_3d,
            "mesh_478": fit.points_478x3,
            "pose": np.array([yaw, pitch, roll], np.float32),
            "alignment": align_to_ffhq(landmarks_68_3d[:, :2]),
            "face_box": found.boxes_N4[chosen],
            "face_score": float(found.scores_N[chosen]),
            "face_count": len(found),
        }

    def _choose(self, image: np.ndarray, boxes_N4: np.ndarray) -> int | RowError:
        """Index of the face that this row is about."""
        from models.faces.choice import choose_faces, identity_distances

        config = self.config
        if self.embedder is None:
            return choose_faces(boxes_N4, config.face)[0]
        from models.identity.embedding import EMBEDDING_SIZE, five_points

        wanted = np.array(config.closest_to, np.float32)
        embeddings = np.full((len(boxes_N4), EMBEDDING_SIZE), np.nan, np.float32)
        for index, box in enumerate(boxes_N4):
            fit = self.mesh.fit(image, box)
            if fit is not None:
                embeddings[index] = self.embedder.embed([image], [five_points(fit.points_478x3)])[0]
        chosen = choose_faces(
            boxes_N4,
            "closest",
            embeddings_ND=embeddings,
            identity_D=wanted,
            max_distance=config.max_identity_distance,
        )
        if chosen:
            return chosen[0]
        nearest = identity_distances(boxes_N4, embeddings, wanted).min()
        return RowError(
            Reason.NO_FACE,
            f"the nearest of {len(boxes_N4)} faces is {nearest:.2f} from the wanted person, "
            f"the limit is {config.max_identity_distance:g}",
        )


def nearest_box(boxes_N4: np.ndarray, place_2: np.ndarray) -> int:
    """Index of the box whose centre is nearest to (x, y)."""
    centres_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    return int(np.argmin(np.linalg.norm(centres_N2 - place_2, axis=1)))
