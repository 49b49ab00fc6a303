"""`landmarks` of the paper's profile: 3DDFA-V3 fits a morphable face model to the face that was chosen.

CenterFace and the 478-point mesh find the face first, under the same policies as in the CPU profiles: the
iris needs the mesh anyway, and five of its points cut the crop that the reconstruction network looks at.
3DDFA-V3 itself uses RetinaFace and a landmark network of its own for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field

from assets.landmarks import OUTPUTS, LandmarkModel, LandmarksConfig, landmarks_stage
from assets.numerics import PIXELS_ARE_EXACT, prepared
from assets.stage import Input, Row, RowOutcome, RowStage, StageContext
from models.faces.network_sizes import ResNetConfig
from models.faces.overlays import draw_landmarks
from models.numerics_config import Numerics
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

ROLES = {"resnet50": "reconstruction_resnet50", "mobilenet_v3_large": "reconstruction_mobilenet"}
"""Weight roles of the two published networks."""

BATCH_SIZE = 32
"""224-pixel crops through a ResNet-50: more rows gain nothing on a GPU, and photographs must stay decoded."""


class ReconstructionConfig(LandmarksConfig):
    """How faces are found and which are accepted, and which network reconstructs them."""

    backbone: Literal["resnet50", "mobilenet_v3_large"] = Field(
        default="resnet50", description="Which of the two published networks."
    )
    network: ResNetConfig | None = Field(
        default=None, description="Shape of the backbone where it is not the published one's."
    )


RECONSTRUCTION_OUTPUTS = (
    *OUTPUTS,
    Column("landmarks_106", pa.list_(pa.float32(), 318), quantum=1 / 16),
    Column("landmarks_106_silhouette", pa.list_(pa.float32(), 318), quantum=1 / 16),
    Column("landmarks_134", pa.list_(pa.float32(), 402), quantum=1 / 16),
    Column("coefficients_257", pa.list_(pa.float32(), 257), quantum=1e-3),
)
"""The columns of the CPU profiles with 68 landmarks, pose and alignment from the reconstruction, and more.

All landmarks are (x, y, depth) in pixels of the upright photo; `mesh_478` stays the mesh's.
"""


def landmarks_reconstruction_stage(config: ReconstructionConfig, numerics: Numerics = Numerics()) -> RowStage:
    """The stage `landmarks` by 3DDFA-V3."""

    def load(context: StageContext) -> ReconstructionModel:
        return ReconstructionModel(config, context, numerics)

    return RowStage(
        name="landmarks",
        code_version="reconstruction-1",
        description="CenterFace and the mesh find the face; 3DDFA-V3 gives landmarks, pose, coefficients.",
        config=config,
        inputs=(Input("faces", ("image",)),),
        weights=(*landmarks_stage(config).weights, ROLES[config.backbone], "face_model"),
        outputs=RECONSTRUCTION_OUTPUTS,
        load=load,
        batch_size=BATCH_SIZE,
        numerics=numerics,
        exact=PIXELS_ARE_EXACT,
        preview=lambda row: draw_landmarks(row["image"], row["landmarks_68"].reshape(68, 2)),
    )


class ReconstructionModel:
    """Detector, mesh and reconstruction network, loaded once."""

    def __init__(self, config: ReconstructionConfig, context: StageContext, numerics: Numerics) -> None:
        from models.faces.reconstruction.bfm import load_face_model
        from models.faces.reconstruction.network import load_reconstruction_net
        from models.faces.reconstruction.reconstruct import FaceReconstructor

        self.mesh = LandmarkModel(config, context)
        path = context.weight(ROLES[config.backbone])
        network = load_reconstruction_net(path, config.backbone, config=config.network)
        face_model = load_face_model(context.weight("face_model"))
        network = prepared(network, context, numerics, name="landmarks, 3DDFA-V3", exact=PIXELS_ARE_EXACT)
        self.reconstructor = FaceReconstructor(network, face_model)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order; all crops share one pass."""
        from models.faces.alignment import align_to_ffhq
        from models.faces.reconstruction.five_points import align_five_points, five_points_of_68

        outcomes: list[RowOutcome] = list(self.mesh(rows))
        fitted, alignments = [], []
        for place, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
            if isinstance(outcome, RowError):
                continue
            points = five_points_of_68(outcome["landmarks_68"])
            try:
                alignments.append(align_five_points(points, row["image"].shape[:2]))
            except ValueError as error:
                outcomes[place] = RowError(Reason.NO_FACE, f"the mesh's five points give no crop: {error}")
                continue
            fitted.append(place)
        if not fitted:
            return outcomes
        found = self.reconstructor.reconstruct([rows[place]["image"] for place in fitted], alignments)
        for place, face in zip(fitted, found, strict=True):
            outcome = outcomes[place]
            assert not isinstance(outcome, RowError)  # only rows with a mesh were fitted
            if face is None:
                outcomes[place] = RowError(Reason.NO_FACE, "3DDFA-V3 puts the face behind the camera")
                continue
            landmarks_68 = face.landmarks_68[:, :2]
            outcomes[place] = {
                **outcome,
                "landmarks_68": landmarks_68,
                "landmarks_68_3d": face.landmarks_68,
                "landmarks_106": face.landmarks_106,
                "landmarks_106_silhouette": face.landmarks_106_silhouette,
                "landmarks_134": face.landmarks_134,
                "coefficients_257": face.coefficients_257,
                "pose": face.pose_3,
                "alignment": align_to_ffhq(landmarks_68),
            }
        return outcomes
