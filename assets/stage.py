"""What a stage is: names, versions, inputs, outputs. Everything else about stages is shared.

A *row stage* computes columns of one table row by row. An *artifact stage* makes one thing out of many
rows: a release, a checkpoint, an evaluation. Both say what they depend on, and the planner decides from
that alone what is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from assets.checks.limits import DEFAULT_LIMITS, CheckLimits
from models.numerics_config import Numerics
from resources.compute.demand import StageResources
from resources.lake.digest import recipe_prefix
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import base_name, of_recipe, recipe_of, recipe_of_shard
from resources.lake.schema import FACES_STAGE, Column, state_field
from resources.photos.reasons import RowError
from resources.weights.resolve import ResolvedWeight, resolve

DEFAULT_RECIPE = "baseline"
"""What the only recipe is called where a profile names none."""

Row = Mapping[str, Any]
"""Input values of one row by column name; `image` is a decoded upright RGB uint8 array (H, W, 3)."""

RowOutcome = Mapping[str, Any] | RowError
"""Output values of one row by column name, or the reason why there are none."""


ONE_CORE = StageResources()
"""What a process of a stage takes where its profile says nothing."""


class StageConfig(BaseModel):
    """Base of every stage's settings: frozen, and nothing unknown is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoConfig(StageConfig):
    """A stage without settings."""


class RowModel(Protocol):
    """A loaded model of a row stage: a batch of rows in, one outcome per row out, in order."""

    def __call__(self, rows: Sequence[Row]) -> Sequence[RowOutcome]:
        """Compute a batch; a row that cannot be computed yields a RowError instead of raising it."""
        ...


@dataclass(frozen=True)
class StageContext:
    """What a stage may use while it runs."""

    lake: Lake
    weights: Mapping[str, ResolvedWeight]
    device: str
    report: Callable[[str], None]

    def weight(self, role: str) -> Path:
        """Path of a verified weight of this stage."""
        return self.weights[role].path


@dataclass(frozen=True)
class Input:
    """Dependence on an upstream stage.

    `columns` are read; `via` names the column that holds the key of the upstream's row when it is another
    table's row (a triplet's `source_image_id`). An input that is not `tracked` is read but does not make
    the row stale: its content is covered by another input's digest.
    """

    stage: str
    columns: tuple[str, ...] = ()
    via: str | None = None
    tracked: bool = True

    @property
    def label(self) -> str:
        """Name of this input in plans, e.g. `latents` or `latents@target_image_id`."""
        return self.stage if self.via is None else f"{self.stage}@{self.via}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What row stages and artifact stages have in common."""

    name: str
    code_version: str
    config: StageConfig
    inputs: tuple[Input, ...]
    description: str
    weights: tuple[str, ...] = ()

    @property
    def asset(self) -> str:
        """What Dagster calls it: its name without the recipe, which is a partition there."""
        return base_name(self.name)

    @property
    def recipe(self) -> str | None:
        """The recipe that it belongs to; None for the default one and for what all recipes share."""
        return recipe_of(self.name)

    @property
    def tracked(self) -> tuple[Input, ...]:
        """Inputs whose change makes a result stale, in fingerprint order."""
        return tuple(item for item in self.inputs if item.tracked)

    def resolve_weights(self) -> dict[str, ResolvedWeight]:
        """Locate and verify the stage's weights. Raises WeightError with the remedy."""
        return {role: resolve(role) for role in self.weights}

    @cached_property
    def weights_digest(self) -> str:
        """Digest over role and SHA-256 of every weight."""
        return ",".join(f"{role}={weight.sha256}" for role, weight in self.resolve_weights().items())

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was asked for and decides results, as plain values."""
        return self.config.model_dump(mode="json")

    @cached_property
    def prefix(self) -> bytes:
        """Code, settings and weights part of every fingerprint of this stage."""
        return recipe_prefix(self.name, self.code_version, self.settings, self.weights_digest)


@dataclass(frozen=True, kw_only=True)
class RowStage(Stage):
    """A stage that computes columns of `table`, one value per row.

    `row_columns` are columns of the row itself that are read besides the inputs (a swap's `method`); they
    never change for a given key, so they are not part of the fingerprint. `preview` draws one row (its
    inputs and outputs, and the photo as `image`) as RGB uint8. `resources` are what a process of it takes of
    a cluster; like the batch size they are not part of the fingerprint. `numerics` say how its torch networks
    compute, None where it has none of that kind, and `exact` why `auto` keeps them to float32, if it does.
    """

    table: str = "faces"
    outputs: tuple[Column, ...]
    load: Callable[[StageContext], RowModel]
    row_columns: tuple[str, ...] = ()
    batch_size: int = 16
    resources: StageResources = ONE_CORE
    numerics: Numerics | None = None
    exact: str = ""
    preview: Callable[[Row], np.ndarray] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The config, and the precision where one was asked for by name.

        What `auto` comes to differs between devices and is left out: no row becomes stale by moving.
        """
        return super().settings | (self.numerics.asked() if self.numerics else {})

    @property
    def group_fields(self) -> list[pa.Field]:
        """Arrow fields of the whole column group, state included."""
        return [*(column.field for column in self.outputs), state_field(self.name)]


class ArtifactBuilder(Protocol):
    """Makes an artifact; called with the fingerprint under which the result will be recorded."""

    def __call__(self, context: StageContext, fingerprint: bytes) -> Artifact:
        """Build it. A rerun after a kill is called with the same fingerprint and may resume."""
        ...


@dataclass(frozen=True, kw_only=True)
class ArtifactStage(Stage):
    """A stage that makes one artifact out of many rows or other artifacts.

    Its fingerprint covers the digests of all rows of its row inputs. `extra_content` adds what is not a
    stage's output, such as the list of pairs to swap. `by_recipe` says that every recipe has one of its own.
    `finish` is called once the artifact is registered: it
    removes what only an unfinished build needs, so that a kill before never costs the work again. `preview`
    (PNG) and `table` (Markdown) are for people who look at it.
    """

    build: ArtifactBuilder
    by_recipe: bool = False
    finish: Callable[[Lake, Artifact], None] | None = None
    extra_content: Callable[[Lake], bytes] | None = None
    preview: Callable[[Lake, Artifact], bytes | None] | None = None
    table: Callable[[Lake, Artifact], str | None] | None = None


@dataclass(frozen=True)
class StageGraph:
    """All stages of one profile, upstream before downstream, and the limits of their checks.

    `recipes` are those whose stages are among them, the default one first.
    """

    stages: tuple[Stage, ...]
    limits: CheckLimits = DEFAULT_LIMITS
    recipes: tuple[str, ...] = (DEFAULT_RECIPE,)

    def __post_init__(self) -> None:
        known = {FACES_STAGE}
        for stage in self.stages:
            for item in stage.inputs:
                if item.stage not in known:
                    raise ValueError(f"stage {stage.name} needs {item.stage}, which does not come before it")
            if stage.name in known:
                raise ValueError(f"two stages are called {stage.name}; give one another name")
            known.add(stage.name)

    def __getitem__(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"no stage {name!r}; there are: faces, {', '.join(self.names)}")

    def needed_for(self, names: Collection[str]) -> StageGraph:
        """The named stages and all that they depend on, in the same order; `faces` may be among the names."""
        wanted = set(names)
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= {item.stage for item in stage.inputs}
        return replace(self, stages=tuple(stage for stage in self.stages if stage.name in wanted))

    def of_asset(self, asset: str, partition: str | None) -> Stage:
        """The stage that computes a partition of what Dagster calls an asset: a shard's, a recipe's, or all.

        Raises KeyError that lists what there is.
        """
        if partition is None:
            return self[asset]
        recipe = recipe_of_shard(partition)
        if partition in self.recipes:
            recipe = None if partition == self.recipes[0] else partition
        return self[of_recipe(asset, recipe)]

    def assets(self) -> dict[str, list[Stage]]:
        """What Dagster calls assets, upstream first, each with its stages: one, or one of every recipe."""
        found: dict[str, list[Stage]] = {}
        for stage in self.stages:
            found.setdefault(stage.asset, []).append(stage)
        return found

    def partition_of(self, stage: ArtifactStage) -> str | None:
        """The partition that an artifact is in Dagster: its recipe's name, or None where all share it."""
        return (stage.recipe or self.recipes[0]) if stage.by_recipe else None

    def tables(self) -> tuple[str, ...]:
        """Every table of which some stage computes columns, `faces` first."""
        return tuple(dict.fromkeys([FACES_STAGE, *(stage.table for stage in self.row_stages())]))

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names in topological order, without `faces`."""
        return tuple(stage.name for stage in self.stages)

    def row_stages(self, table: str | None = None) -> tuple[RowStage, ...]:
        """The row stages (of one table), in topological order."""
        return tuple(
            stage
            for stage in self.stages
            if isinstance(stage, RowStage) and (table is None or stage.table == table)
        )

    def prepare(self, lake: Lake) -> None:
        """Add the column groups of all row stages to the lake's tables, schema only."""
        for table in self.tables():
            fields = [item for stage in self.row_stages(table) for item in stage.group_fields]
            lake.table(table).ensure_columns(fields)
