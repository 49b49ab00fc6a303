"""Which model files a DiffFace needs: our own small networks of the rendered world, or the published ones.

Loads nothing; `models.diffface.networks` opens what is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Literal

NetworksName = Literal["world", "published"]
"""`world` knows rendered faces of the procedural world at 32 px; `published` is the paper's, at 256 px."""


@dataclass(frozen=True)
class NetworkRoles:
    """Weight roles of the four networks."""

    denoiser: str
    embedder: str
    parser: str
    gaze: str

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return astuple(self)


NETWORK_ROLES: Mapping[NetworksName, NetworkRoles] = MappingProxyType(
    {
        "world": NetworkRoles("tiny_denoiser", "world_embedder", "world_parser", "world_gaze"),
        "published": NetworkRoles("diffface_unet", "simswap_arcface", "face_parser", "gaze_estimator"),
    }
)
