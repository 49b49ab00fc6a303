"""How the stage `diffface_swaps` swaps; needs no model to be read."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field, field_serializer

from assets.stage import StageConfig
from assets.swapping import IDENTITY
from models.diffface.roles import NETWORK_ROLES, NetworkRoles, NetworksName
from models.diffface.settings import DiffFaceSettings

DIFFFACE: Final = "diffface"
"""The method's name in evaluations, reports and marks."""

DIFFFACE_SWAPS: Final = "diffface_swaps"
"""The stage, and its table."""

OF_THE_RUN: Final = frozenset({"batch_size", "gpu_id", "device", "output_path", "output_file"})
"""Settings that say how and where something is computed, not what comes out."""


class DiffFaceSwapsConfig(StageConfig):
    """Which networks swap the evaluation pairs, and how."""

    networks: NetworksName = Field(description="Our own small networks of the rendered world, or published.")
    identity: str = Field(
        default=IDENTITY,
        description="Stage, and column, with the embedding that the denoiser was trained with.",
    )
    size: int = Field(
        ge=16, description="Side of the stored swaps, px: the frame in which methods are compared."
    )
    settings: DiffFaceSettings = Field(
        default_factory=DiffFaceSettings, description="Every argument of DiffFace."
    )

    @field_serializer("settings")
    def _what_decides_results(self, settings: DiffFaceSettings) -> dict[str, Any]:
        """Fingerprints are made of this: another batch size makes nothing stale."""
        return settings.model_dump(mode="json", exclude=set(OF_THE_RUN))

    @property
    def roles(self) -> NetworkRoles:
        """Weight roles of the networks."""
        return NETWORK_ROLES[self.networks]


def settings_on(settings: DiffFaceSettings, device: str, **changes: Any) -> DiffFaceSettings:
    """Settings on a device that `choose_device` named, with other fields changed.

    Raises pydantic's ValidationError for a value that does not fit.
    """
    kind, _, number = device.partition(":")
    values = {**dict(settings), **changes, "device": kind, "gpu_id": int(number or 0)}
    return DiffFaceSettings.model_validate(values)
