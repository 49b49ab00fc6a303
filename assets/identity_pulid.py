"""`identity_embedding` of the paper's profile: ArcFace (antelopev2) and PuLID's 32 identity tokens.

The column `identity_embedding` holds what the base's identity attention takes, as in every profile: here the
tokens, 32 x 2048 numbers in rows of one token. The tokens of "no identity" depend on the networks alone; they
belong to the base (`constants.safetensors`) and are not stored per photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.numerics import prepared
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.faces.network_sizes import BiSeNetConfig
from models.faces.parsing import decode_codes
from models.identity.network_sizes import EvaClipConfig, IdFormerConfig
from models.numerics_config import Numerics
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

if TYPE_CHECKING:
    from assets.numerics import Network

ARCFACE_NUMBERS = 512
EMBEDDER_NAME = "antelopev2_glintr100+pulid_flux_v0.9.1"

BATCH_SIZE = 8
"""As many 336-pixel crops as PuLID's image tower passes at once: 577 tokens each through 24 blocks."""


class PulidConfig(StageConfig):
    """What of the photograph the networks see, and the networks' sizes."""

    source: Literal["masked", "unmasked"] = Field(
        default="masked",
        description="masked: everything but the face is black, as in APPLE's training. APPLE swaps with "
        "unmasked ones, and so does `orchard swap` (`swap_source_stage`).",
    )
    points: Literal["scrfd", "landmarks"] = Field(
        default="scrfd",
        description="Five points that align the face: antelopev2's detector, which the embedder was made "
        "with, or the 68 landmarks. Where the detector misses the face, the landmarks serve.",
    )
    parser: BiSeNetConfig = Field(default=BiSeNetConfig(), description="Shape of the parser of the crops.")
    tower: EvaClipConfig = Field(default=EvaClipConfig(), description="Sizes of EVA-CLIP's image tower.")
    encoder: IdFormerConfig = Field(default=IdFormerConfig(), description="Sizes of PuLID's ID encoder.")

    @property
    def token_numbers(self) -> int:
        """Numbers in the tokens of one identity."""
        return self.encoder.queries * self.encoder.output_dim


def identity_pulid_stage(config: PulidConfig, numerics: Numerics = Numerics()) -> RowStage:
    """The stage `identity_embedding` by antelopev2, EVA-CLIP and PuLID."""

    def load(context: StageContext) -> PulidModel:
        return PulidModel(config, context, numerics)

    return RowStage(
        name="identity_embedding",
        code_version="pulid-1",
        description="PuLID's 32 identity tokens (float16) and the ArcFace embedding of the aligned face.",
        config=config,
        inputs=(
            Input("faces", ("image",)),
            Input("landmarks", ("landmarks_68",)),
            Input("masks", ("parsing",)),
        ),
        weights=("antelopev2", "face_parser", "eva_clip", "pulid_flux"),
        outputs=(
            Column("identity_embedding", pa.list_(pa.float16(), config.token_numbers), quantum=1 / 64),
            Column("arcface_512", pa.list_(pa.float32(), ARCFACE_NUMBERS), quantum=1e-2),
            Column("identity_points", pa.string()),
            Column("identity_embedder", pa.string()),
        ),
        load=load,
        batch_size=BATCH_SIZE,
        numerics=numerics,
    )


def swap_source_stage(stage: RowStage, *, masked: bool = False) -> RowStage:
    """The identity stage as it embeds the sources of swaps: unmasked photographs, as APPLE's scripts do.

    Training reads masked ones. An embedder that knows no such difference is returned as it is.
    """
    if not isinstance(stage.config, PulidConfig):
        return stage
    source = "masked" if masked else "unmasked"
    config = stage.config.model_copy(update={"source": source})
    return identity_pulid_stage(config, stage.numerics or Numerics())


class PulidModel:
    """Detector, embedder, parser, image tower and ID encoder, loaded once."""

    def __init__(self, config: PulidConfig, context: StageContext, numerics: Numerics) -> None:
        from models.faces.bisenet import FaceParser, load_bisenet
        from models.identity.eva_clip import load_eva_clip
        from models.identity.face_analysis import LocalFaceAnalysis
        from models.identity.id_former import load_id_former
        from models.identity.pulid_tokens import PulidTokens

        self.config = config
        self.analysis = LocalFaceAnalysis(context.weight("antelopev2"), context.device)

        def ready(network: Network, name: str) -> Network:
            return prepared(network, context, numerics, name=f"identity_embedding, {name}")

        parser = ready(load_bisenet(context.weight("face_parser"), config=config.parser), "BiSeNet")
        # PuLID normalises the parser's input once, whatever the masks are made with.
        self.parser = FaceParser(parser, double_normalisation=False)
        tower = ready(load_eva_clip(context.weight("eva_clip"), config.tower), "EVA-CLIP")
        encoder = ready(load_id_former(context.weight("pulid_flux"), config.encoder), "ID encoder")
        self.tokens = PulidTokens(tower, encoder)

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order; detection alone runs photo by photo."""
        from models.identity.arcface_alignment import arcface_chip, pulid_crop

        chips, crops, origins, places = [], [], [], []
        outcomes: list[RowOutcome | None] = [None] * len(rows)
        for place, row in enumerate(rows):
            image = self._source(row)
            points_52, origin = self._points(row)
            try:
                crops.append(pulid_crop(image, points_52))
            except ValueError as error:
                outcomes[place] = RowError(Reason.NO_FACE, f"the face cannot be aligned: {error}")
                continue
            chips.append(arcface_chip(image, points_52))
            origins.append(origin)
            places.append(place)
        if places:
            arcface_ND = self.analysis.embed_chips(np.stack(chips))
            tokens_NTD = self.tokens.encode(arcface_ND, crops, self.parser.parse(crops))
            for place, arcface_D, tokens_TD, origin in zip(
                places, arcface_ND, tokens_NTD, origins, strict=True
            ):
                outcomes[place] = {
                    "identity_embedding": tokens_TD.astype(np.float16).ravel(),
                    "arcface_512": arcface_D,
                    "identity_points": origin,
                    "identity_embedder": EMBEDDER_NAME,
                }
        return [outcome for outcome in outcomes if outcome is not None]

    def _source(self, row: Row) -> np.ndarray:
        from models.identity.pulid_tokens import mask_source

        image = row["image"]
        if self.config.source == "unmasked":
            return image
        return mask_source(image, decode_codes(row["parsing"], image.shape[:2]))

    def _points(self, row: Row) -> tuple[np.ndarray, str]:
        """Five points of the face that `landmarks` chose, and who found them.

        PuLID takes the largest face; in a group that may be another one than the landmarks are of.
        """
        from models.identity.arcface_alignment import arcface_points_from_68

        known_52 = arcface_points_from_68(row["landmarks_68"].reshape(68, 2))
        if self.config.points == "scrfd":
            eyes_apart = np.linalg.norm(known_52[1] - known_52[0])
            found = [face.points_52 for face in self.analysis.detect(row["image"])]
            apart = [float(np.linalg.norm(points - known_52, axis=1).mean()) for points in found]
            if apart and min(apart) < eyes_apart:
                return found[int(np.argmin(apart))], "scrfd"
        return known_52, "landmarks"
