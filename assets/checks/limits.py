"""From which share of rows on a check fails: settings of a profile that make nothing stale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ShareLimit(BaseModel):
    """Two limits of a share of rows, 0..1; a check fails as a warning above the first, as an error above
    the second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warn: float = Field(ge=0, le=1, description="Above this share the check fails with severity WARN.")
    error: float = Field(ge=0, le=1, description="Above this share the check fails with severity ERROR.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.error < self.warn:
            raise ValueError(
                f"the limit for an error ({self.error}) is below that for a warning ({self.warn})"
            )
        return self


class CheckLimits(BaseModel):
    """Limits of a profile's checks.

    They judge results and take no part in making them, so they are not in any fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quarantined: ShareLimit = Field(
        default=ShareLimit(warn=0.05, error=0.5),
        description="Rows of a shard that a stage itself sets aside, as a share of the rows that reached it. "
        "A prepared collection of faces loses a few in a hundred, so more deserves a look; where more rows "
        "are lost than kept, it is the folder, the settings or a model that is wrong, not the rows.",
    )
    quarantined_of: Mapping[str, ShareLimit] = Field(
        default={}, description="Limits of single stages, by name, instead of `quarantined`."
    )
    implausible: ShareLimit = Field(
        default=ShareLimit(warn=0.0, error=0.02),
        description="Rows of a shard whose landmarks or irises cannot be right. One such row is a detector's "
        "slip and named in a warning; more than two in a hundred are a fault of the stage.",
    )

    def quarantined_in(self, stage: str) -> ShareLimit:
        """The limit of one stage."""
        return self.quarantined_of.get(stage, self.quarantined)


DEFAULT_LIMITS = CheckLimits()
"""Limits of a profile that sets none."""
