"""What a person may set about the automation, in the environment of `orchard ui`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from assets.stage import ArtifactStage, RowStage, StageGraph
from pipeline.options import chosen_stages
from pipeline.profiles import DEFAULT_PROFILE
from resources.lake.schema import FACES_STAGE

ALL_STAGES = "all"
PHOTOGRAPHS = "faces"
PREFIX = "ORCHARD_REFRESH_"


class AutomationSettings(BaseModel):
    """Settings of the refresh; each is ORCHARD_REFRESH_<NAME> in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str = Field(default="0 * * * *", description="When the schedule reads the source folders again.")
    seconds: int = Field(default=60, ge=1, description="Least seconds between two ticks of a sensor.")
    stages: tuple[str, ...] = Field(
        default=(),
        description="Stages that a refresh may compute, separated by commas, or `all`. None named means the "
        "row stages of photographs and the release: training is never started unasked.",
    )
    prune: bool = Field(
        default=False, description="Whether a refresh drops the rows of photographs whose files are gone."
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> AutomationSettings:
        """The settings of this process. Raises pydantic's ValidationError that names a wrong one."""
        found = os.environ if environment is None else environment
        values: dict[str, object] = {
            name: found[PREFIX + name.upper()]
            for name in cls.model_fields
            if found.get(PREFIX + name.upper())
        }
        if "stages" in values:
            values["stages"] = [name.strip() for name in str(values["stages"]).split(",") if name.strip()]
        return cls.model_validate(values)

    def chosen(self, graph: StageGraph) -> list[str]:
        """The stages of a profile that a refresh may compute, upstream first."""
        return refreshed_stages(graph, self.stages)


def refreshed_stages(graph: StageGraph, names: Sequence[str]) -> list[str]:
    """The named stages, upstream first; `all` means all, and none named those that train nothing.

    These are the row stages of photographs and the artifacts made of such rows alone: the release.
    Raises UsageError for a stage that the profile does not have.
    """
    if ALL_STAGES in names:
        return list(graph.names)
    if names:
        return [name for name in chosen_stages(graph, list(names)) if name != FACES_STAGE]
    rows = {stage.name for stage in graph.row_stages(PHOTOGRAPHS)} | {FACES_STAGE}
    return [
        stage.name
        for stage in graph.stages
        if stage.name in rows
        or (
            isinstance(stage, ArtifactStage)
            and stage.inputs
            and all(item.stage in rows for item in stage.inputs)
        )
    ]


def is_row_stage_of(graph: StageGraph, name: str, table: str) -> bool:
    """Whether a stage computes columns of a table; `faces` itself counts for its own."""
    if name == FACES_STAGE:
        return table == PHOTOGRAPHS
    stage = graph[name]
    return isinstance(stage, RowStage) and stage.table == table


def defined_profile() -> str:
    """The profile of the shipped definitions: ORCHARD_PROFILE, which `orchard ui` sets."""
    return os.environ.get("ORCHARD_PROFILE", DEFAULT_PROFILE)
