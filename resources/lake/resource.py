"""The lake as a Dagster resource: which one, and where its models run."""

import dagster as dg
from pydantic import Field

from resources.compute.engine_choice import EngineChoice, choose_engine
from resources.lake.lake import Lake


class LakeResource(dg.ConfigurableResource):
    """Opens the lake a run works on. A Dagster instance belongs to one lake."""

    uri: str = Field(description="Path or URI of the lake; ORCHARD_LAKE in the shipped definitions.")
    device: str = Field(default="auto", description="As of `--device`; a GPU asked for must exist.")
    engine: str | None = Field(
        default=None, description="local or ray: where row stages are computed; else ORCHARD_ENGINE decides."
    )
    ray_address: str | None = Field(
        default=None,
        description="host:port of a Ray cluster; else ORCHARD_RAY_ADDRESS, else this machine's own cluster.",
    )
    ray_actors: int | None = Field(
        default=None,
        description="Processes of a stage at most; else ORCHARD_RAY_ACTORS, else as many as fit.",
    )

    def open(self) -> Lake:
        """Open it. Raises LakeError when there is none."""
        return Lake.open(self.uri)

    def engine_choice(self) -> EngineChoice:
        """Where row stages are computed. Raises ValueError for an engine that does not exist."""
        return choose_engine(self.engine, self.ray_address, self.ray_actors)
