"""`swaps`: every evaluation pair swapped by the teacher, the teacher with inversion, and the student.

Beside them stands what a classical swap makes of the same photographs, without any checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
from pydantic import Field

from assets.classical_swaps import MESH_WARP, MESH_WARP_INPUTS, mesh_warped
from assets.condition import TARGET_COLUMN
from assets.pair_condition import PAIR_CONDITION, PairCondition, PairConditionConfig
from assets.stage import Input, Row, RowOutcome, RowStage, StageConfig, StageContext
from assets.swap_base import PROMPTS_STAGE, BaseConfig, open_swapper
from assets.swapping import PairReading, marked_row, pair_preview, swap_rows
from assets.training import checkpoint_folder
from assets.training_rows import need_artifact
from models.swap.sampling_config import SamplingConfig
from resources.lake.recipes import of_recipe
from resources.lake.schema import Column
from resources.photos.reasons import RowError

BATCH_SIZE = 48
"""Rows at a time with the small base; a profile of a larger one says its own. No fingerprint holds it."""


class SwapsConfig(StageConfig):
    """How the evaluation pairs are swapped."""

    base: BaseConfig = Field(description="Files and shape of the base.")
    sampling: SamplingConfig = Field(description="Sampling from noise: teacher and student.")
    inversion: SamplingConfig = Field(description="Sampling from the inverted target: teacher_inversion.")
    pair_condition: PairConditionConfig | None = Field(
        default=None,
        description="For condition images that depend on the source too, else None.",
    )


def swaps_stage(
    config: SwapsConfig,
    recipe: str | None = None,
    reading: PairReading = PairReading(),
    batch_size: int = BATCH_SIZE,
) -> RowStage:
    """The stage `swaps` of a recipe, one row per pair and method. Every picture is marked as made."""
    artifacts = {name: of_recipe(name, recipe) for name in ("teacher", "student")}

    def load(context: StageContext) -> SwapModels:
        return SwapModels(config, context, artifacts, reading)

    return RowStage(
        name=of_recipe("swaps", recipe),
        code_version="2",
        table=of_recipe("swaps", recipe),
        description="Evaluation pairs swapped by teacher, teacher with inversion, student and mesh warp.",
        config=config,
        inputs=(
            Input(PROMPTS_STAGE),
            *(Input(name) for name in artifacts.values()),
            *_once(
                *reading.inputs,
                *(config.pair_condition.inputs if config.pair_condition else ()),
                *MESH_WARP_INPUTS,
            ),
        ),
        row_columns=("method",),
        weights=(*config.base.roles, *(config.pair_condition.weights if config.pair_condition else ())),
        outputs=(Column("swap", pa.binary(), picture=True),),
        load=load,
        batch_size=batch_size,
        preview=lambda row: pair_preview(row, "swap"),
    )


def _once(*inputs: Input) -> tuple[Input, ...]:
    """Each upstream once, with all columns that are read of it."""
    found: dict[str, Input] = {}
    for item in inputs:
        known = found.get(item.label, item)
        columns = tuple(dict.fromkeys((*known.columns, *item.columns)))
        found[item.label] = replace(known, columns=columns, tracked=known.tracked or item.tracked)
    return tuple(found.values())


class SwapModels:
    """Teacher and student, loaded once."""

    def __init__(
        self, config: SwapsConfig, context: StageContext, artifacts: Mapping[str, str], reading: PairReading
    ) -> None:
        from models.swap.swapper import verified_lora

        self.config, self.reading = config, reading
        shaped = config.pair_condition
        self.pair_condition = PairCondition(shaped, context) if shaped else None
        folders = {
            name: checkpoint_folder(context.lake, need_artifact(context.lake, artifact))
            for name, artifact in artifacts.items()
        }
        self.model_ids = {name: folder.name for name, folder in folders.items()}
        # one base for both: at full size a second one would be 24 GB more
        self.swapper = open_swapper(context, config.base, folders["teacher"])
        base = self.swapper.base
        self.adapters = {name: verified_lora(base, folder) for name, folder in folders.items()}
        self.worn = "teacher"

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per row, in order; rows of one method go through its model together."""
        outcomes: dict[int, RowOutcome] = {}
        for method in dict.fromkeys(row["method"] for row in rows):
            places = [place for place, row in enumerate(rows) if row["method"] == method]
            batch = [rows[place] for place in places]
            if method == MESH_WARP:
                outcomes |= {place: self._warped(row) for place, row in zip(places, batch, strict=True)}
                continue
            name, condition, sampling = self.recipe(method)
            if name != self.worn:
                self.swapper.use_adapters(self.adapters[name])
                self.worn = name
            if condition == PAIR_CONDITION and self.pair_condition is not None:
                batch = self.pair_condition.added_to(batch, self.swapper.base.codec)
            pictures = swap_rows(self.swapper, batch, condition, sampling, self.reading.identity)[1]
            for place, row, picture in zip(places, batch, pictures, strict=True):
                made = marked_row(picture, row, self.model_ids[name], f"swaps/{method}")
                outcomes[place] = {"swap": made}
        return [outcomes[place] for place in range(len(rows))]

    def _warped(self, row: Row) -> RowOutcome:
        picture = mesh_warped(row, self.swapper.base.config.image_size)
        if isinstance(picture, RowError):
            return picture
        return {"swap": marked_row(picture, row, MESH_WARP, f"swaps/{MESH_WARP}")}

    def recipe(self, method: str) -> tuple[str, str, SamplingConfig]:
        """Which checkpoint, which latent it sees as condition, and how it is sampled."""
        drawn = self.reading.condition.column if self.pair_condition is None else PAIR_CONDITION
        match method:
            case "teacher":
                return "teacher", drawn, self.config.sampling
            case "teacher_inversion":
                return "teacher", drawn, self.config.inversion
            case "student":
                return "student", TARGET_COLUMN, self.config.sampling
        raise ValueError(f"no swap method {method!r}")
