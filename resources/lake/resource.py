"""The lake as a Dagster resource: which one, and where its models run."""

import dagster as dg
from pydantic import Field

from resources.lake.lake import Lake


class LakeResource(dg.ConfigurableResource):
    """Opens the lake a run works on. A Dagster instance belongs to one lake."""

    uri: str = Field(description="Path or URI of the lake; ORCHARD_LAKE in the shipped definitions.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; a GPU asked for must exist.")

    def open(self) -> Lake:
        """Open it. Raises LakeError when there is none."""
        return Lake.open(self.uri)
