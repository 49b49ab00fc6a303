"""`masks` of the paper's profile: BiSeNet parses the photograph, DeepLabV3+ says where the face shows.

Both look at the whole photograph, as in APPLE. Their intersection is what a condition image hides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from assets.numerics import prepared
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from models.faces.constants import FACE_CLASSES
from models.faces.network_sizes import BiSeNetConfig, DeepLabConfig
from models.faces.overlays import draw_parsing
from models.faces.parsing import decode_codes, encode_codes, pack_mask
from models.numerics_config import Numerics
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError

BATCH_SIZE = 8
"""The dilated ResNet-101 keeps 2,048 channels at 64 x 64: about 0.3 GB of activations per photograph."""


class NetworkMasksConfig(StageConfig):
    """How the parser's input is normalised, and the networks' shapes."""

    double_normalisation: bool = Field(
        default=True,
        description="Normalise the parser's input twice, as DiffFace and APPLE do; false: once, as the "
        "published weights were trained.",
    )
    parser: BiSeNetConfig = Field(default=BiSeNetConfig(), description="Shape of the parser.")
    visible_face: DeepLabConfig = Field(
        default=DeepLabConfig(), description="Shape of the occlusion network."
    )


def masks_networks_stage(config: NetworkMasksConfig, numerics: Numerics = Numerics()) -> RowStage:
    """The stage `masks` by BiSeNet and DeepLabV3+."""

    def load(context: StageContext) -> NetworkMasks:
        return NetworkMasks(config, context, numerics)

    return RowStage(
        name="masks",
        code_version="networks-1",
        description="19-class parsing by BiSeNet, visible face by DeepLabV3+, as compressed codes.",
        config=config,
        inputs=(Input("faces", ("image",)),),
        weights=("face_parser", "visible_face"),
        outputs=(Column("parsing", pa.binary()), Column("visible_face", pa.binary())),
        load=load,
        batch_size=BATCH_SIZE,
        numerics=numerics,
        preview=lambda row: draw_parsing(row["image"], decode_codes(row["parsing"], row["image"].shape[:2])),
    )


class NetworkMasks:
    """Both networks, loaded once."""

    def __init__(self, config: NetworkMasksConfig, context: StageContext, numerics: Numerics) -> None:
        from models.faces.bisenet import FaceParser, load_bisenet
        from models.faces.deeplab import VisibleFace, load_deeplab

        parser = load_bisenet(context.weight("face_parser"), config=config.parser)
        parser = prepared(parser, context, numerics, name="masks, BiSeNet")
        self.parser = FaceParser(parser, double_normalisation=config.double_normalisation)
        visible = load_deeplab(context.weight("visible_face"), config=config.visible_face)
        self.visible = VisibleFace(prepared(visible, context, numerics, name="masks, DeepLabV3+"))

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per photo, in order."""
        images = [row["image"] for row in rows]
        outcomes: list[RowOutcome] = []
        for codes_HW, visible_HW in zip(self.parser.parse(images), self.visible.masks(images), strict=True):
            if (np.isin(codes_HW, FACE_CLASSES) & visible_HW).any():
                outcomes.append({"parsing": encode_codes(codes_HW), "visible_face": pack_mask(visible_HW)})
            else:
                outcomes.append(
                    RowError(Reason.NO_FACE, "no pixel is both of the face and visible to the networks")
                )
        return outcomes
