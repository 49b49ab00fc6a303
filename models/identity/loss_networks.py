"""Which network and which crop an identity loss uses, as settings, and the facts of each. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.faces.alignment import DLIB_CHIP_PADDING, DLIB_CHIP_SIZE, DLIB_FIVE_POINTS
from models.faces.images import Points
from models.identity.arcface_alignment import ARCFACE_FIVE_POINTS, PIXEL_CENTRE, arcface_points_from_68
from models.identity.embedding import EMBEDDING_SIZE, IdentityEmbedder, five_points_from_68
from models.identity.ir_se_sizes import ARCFACE_EMBEDDING, ARCFACE_INPUT, IrSeConfig
from models.identity.world_embedder_sizes import WORLD_CHIP_SIZE, WORLD_EMBEDDING_SIZE, WORLD_FIVE_POINTS

LossNetworkName = Literal["simswap_arcface", "ir_se50", "dlib", "world"]
CropName = Literal["aligned", "nearest_full_frame", "reface_crop"]

WORLD_EMBEDDER = "orchard_world_1"
"""Name of `models.identity.world_embedder.WorldEmbedder`, whose module loads torch."""


class FaceEncoderConfig(BaseModel):
    """Which embedder an identity loss compares with, and what it is shown of a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: LossNetworkName = Field(
        default="simswap_arcface",
        description="SimSwap's ArcFace (APPLE's use_netarc), IR-SE50 (its use_irse50), dlib's ResNet, or the "
        "procedural world's own embedder.",
    )
    crop: CropName = Field(
        default="aligned",
        description="aligned: the face brought to the network's five points. nearest_full_frame: the whole "
        "frame at the network's size by nearest pixels, as APPLE does it. reface_crop: a fixed part of the "
        "frame, averaged down, as REFace shows faces to IR-SE50.",
    )

    shape: IrSeConfig | None = Field(
        default=None, description="Shape of an ArcFace network; the published one when left out."
    )

    @model_validator(mode="after")
    def _fits(self) -> FaceEncoderConfig:
        if self.network in ("dlib", "world") and self.shape is not None:
            raise ValueError(f"the network {self.network} has one shape")
        if self.crop == "reface_crop" and self.network != "ir_se50":
            raise ValueError(f"reface_crop is REFace's crop for ir_se50, not for {self.network}")
        return self

    @property
    def facts(self) -> LossNetwork:
        """The network's facts."""
        return LOSS_NETWORKS[self.network]

    @property
    def label(self) -> str:
        """What is recorded beside its embeddings: the network, and the crop where it is not the aligned one.

        Embeddings of one label may be compared.
        """
        return self.network if self.crop == "aligned" else f"{self.network} {self.crop}"

    def embeds_as(self, embedder: str) -> bool:
        """Whether the embedder of that name, of a stage `identity_embedding`, is this network and crop."""
        return self.crop == "aligned" and embedder == self.facts.embedder

    @property
    def embedding_size(self) -> int:
        """Numbers in an embedding."""
        return self.facts.embedding_size if self.shape is None else self.shape.embedding_dim


@dataclass(frozen=True)
class LossNetwork:
    """What is particular to one network.

    Attributes:
        role: weight role of its file.
        size: side of the square picture it takes, px.
        embedding_size: numbers in an embedding.
        template_52: the five points in that picture, px, counted from the corner of the first pixel.
        border: what an aligned crop shows outside the picture.
        five_points: its five points (5, 2) of landmarks (68, 2).
        embedder: name of the embedder that is this network on the aligned face; None where there is none.
    """

    role: str
    size: int
    embedding_size: int
    template_52: Points
    border: Literal["black", "repeat"]
    five_points: Callable[[Points], Points]
    embedder: str | None = None


def _arcface(role: str) -> LossNetwork:
    return LossNetwork(
        role=role,
        size=ARCFACE_INPUT,
        embedding_size=ARCFACE_EMBEDDING,
        template_52=np.array(ARCFACE_FIVE_POINTS, np.float32) + PIXEL_CENTRE,
        border="black",
        five_points=arcface_points_from_68,
    )


def _dlib() -> LossNetwork:
    unit = np.array(DLIB_FIVE_POINTS, np.float64)
    chip = (unit + DLIB_CHIP_PADDING) / (1 + 2 * DLIB_CHIP_PADDING) * DLIB_CHIP_SIZE
    return LossNetwork(
        role="dlib_face_recognition",
        size=DLIB_CHIP_SIZE,
        embedding_size=EMBEDDING_SIZE,
        template_52=chip.astype(np.float32),
        border="repeat",
        five_points=five_points_from_68,
        embedder=IdentityEmbedder.name,
    )


def _world() -> LossNetwork:
    return LossNetwork(
        role="world_embedder",
        size=WORLD_CHIP_SIZE,
        embedding_size=WORLD_EMBEDDING_SIZE,
        template_52=np.array(WORLD_FIVE_POINTS, np.float32),
        border="repeat",
        five_points=arcface_points_from_68,
        embedder=WORLD_EMBEDDER,
    )


LOSS_NETWORKS: Mapping[LossNetworkName, LossNetwork] = MappingProxyType(
    {
        "simswap_arcface": _arcface("simswap_arcface"),
        "ir_se50": _arcface("ir_se50"),
        "dlib": _dlib(),
        "world": _world(),
    }
)
"""The networks by name."""


def frame_points(
    network: LossNetworkName,
    landmarks_N682: NDArray[np.floating],
    photo_sizes_N2: NDArray[np.integer],
    frame_size: int,
) -> NDArray[np.float32]:
    """The network's five points of photographs in the swap model's frame, (N, 5, 2) float32 px.

    The frame is the whole photo resized to a square (`models.faces.frame`), so both axes have scales of
    their own.

    Args:
        network: whose five points.
        landmarks_N682: (N, 68, 2) px of the photographs, iBUG order.
        photo_sizes_N2: (N, 2) width and height of each upright photograph, px.
        frame_size: side of the frame, px.

    Raises:
        ValueError: a wrong shape, or a coordinate that is not finite.
    """
    count = len(landmarks_N682)
    if photo_sizes_N2.shape != (count, 2):
        raise ValueError(f"expected photo sizes ({count}, 2), got {photo_sizes_N2.shape}")
    scaled = landmarks_N682 * (frame_size / photo_sizes_N2)[:, None, :]
    five_points = LOSS_NETWORKS[network].five_points
    points = [five_points(landmarks.astype(np.float32)) for landmarks in scaled]
    return np.stack(points) if points else np.empty((0, 5, 2), np.float32)
