"""`identity_reference`: the identity loss's own embedding of each photograph, what estimates are held to.

A loss compares two embeddings of one network, so where the loss's network is not the profile's embedder, its
embedding of the source photograph is stored besides. Where it is, `identity_embedding` serves.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pydantic import Field

from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.faces.frame import square_picture
from models.identity.loss_networks import FaceEncoderConfig
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

BATCH_SIZE = 32


class IdentityReferenceConfig(StageConfig):
    """Which network and crop, and the frame of the crops that take the whole of it."""

    encoder: FaceEncoderConfig = Field(
        default=FaceEncoderConfig(), description="Network and crop, the same as the recipe's."
    )
    frame_size: int = Field(
        default=512,
        ge=16,
        description="Side of the model's frame, px. Crops other than aligned take the photograph resized to "
        "it, as they take the model's pictures; the aligned crop takes the photograph itself.",
    )


def identity_reference_stage(config: IdentityReferenceConfig) -> RowStage:
    """The stage `identity_reference`, aligned by the 68 landmarks."""

    def load(context: StageContext) -> ReferenceModel:
        return ReferenceModel(config, context)

    facts = config.encoder.facts
    return RowStage(
        name="identity_reference",
        code_version="1",
        description=f"The identity loss's embedding of the photograph ({config.encoder.network}).",
        config=config,
        inputs=(Input("faces", ("image",)), Input("landmarks", ("landmarks_68",))),
        weights=(facts.role,),
        outputs=(
            Column("identity_reference", pa.list_(pa.float32(), config.encoder.embedding_size), quantum=1e-2),
            Column("identity_reference_network", pa.string()),
        ),
        load=load,
        batch_size=BATCH_SIZE,
    )


class ReferenceModel:
    """The loss's encoder, loaded once."""

    def __init__(self, config: IdentityReferenceConfig, context: StageContext) -> None:
        from models.swap.identity_crop import configured_face_encoder

        self.config = config
        self.device = context.device
        path = context.weight(config.encoder.facts.role)
        self.encoder = configured_face_encoder(config.encoder, path, context.device)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order; photographs differ in size, so only the network is batched."""
        import torch

        outcomes: list[RowOutcome | None] = [None] * len(rows)
        crops, places = [], []
        with torch.inference_mode():
            for place, row in enumerate(rows):
                try:
                    crops.append(self._crop(row))
                    places.append(place)
                except ValueError as error:
                    outcomes[place] = RowError(Reason.NO_FACE, f"the face cannot be aligned: {error}")
            if crops:
                embeddings_ND = self.encoder.network(torch.cat(crops)).float().cpu().numpy()
                for place, embedding_D in zip(places, embeddings_ND, strict=True):
                    outcomes[place] = {
                        "identity_reference": embedding_D,
                        "identity_reference_network": self.config.encoder.label,
                    }
        return [outcome for outcome in outcomes if outcome is not None]

    def _crop(self, row: Row):
        """What the network is shown of a photo, (1, 3, size, size)."""
        import torch

        image = row["image"]
        points = None
        if self.config.encoder.crop == "aligned":
            points_52 = self.config.encoder.facts.five_points(row["landmarks_68"].reshape(68, 2))
            points = torch.from_numpy(points_52)[None].to(self.device)
        else:
            image = square_picture(image, self.config.frame_size)
        pixels_1HW3 = torch.tensor(image, device=self.device)[None]
        return self.encoder.crop(pixels_1HW3.permute(0, 3, 1, 2).float() / 255, points)
