"""Column types of the lake: the photograph columns, and the state struct every stage owns.

A stage owns a *column group*: its output columns plus one struct column `<stage>_state`. Values and
state live in the same data file and are committed together, so a value without provenance cannot exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from resources.lake.recipes import base_name

LAKE_FORMAT = "2.2"
"""Lance data storage version of every table."""

DIGEST_BYTES = 16
"""Length of a row digest (BLAKE2b)."""

IMAGE_METADATA = {"lance-encoding:compression": "none", "lance-encoding:structural-encoding": "fullzip"}
"""Encoding of columns that hold compressed pictures: compressing them again costs 3-9x in scan speed."""


class Status(StrEnum):
    """What is known of one row in one stage. A row without a state is `pending`."""

    OK = "ok"
    QUARANTINED = "quarantined"
    PENDING = "pending"


@dataclass(frozen=True)
class Column:
    """One output column of a stage.

    `quantum` is the step to which floats are rounded before they are hashed, in the column's own unit;
    it keeps noise below the step from looking like a change. It is required for float columns. A value of an
    `optional` column may be missing in a row that is ok; another column says why.
    """

    name: str
    type: pa.DataType
    quantum: float | None = None
    picture: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        if _is_floating(self.type) and not self.quantum:
            raise ValueError(f"column {self.name} is floating point: give it a quantum for hashing")

    @property
    def field(self) -> pa.Field:
        """The Arrow field, with the encoding that pictures need."""
        return pa.field(self.name, self.type, metadata=IMAGE_METADATA if self.picture else None)


def _is_floating(data_type: pa.DataType) -> bool:
    while pa.types.is_fixed_size_list(data_type) or pa.types.is_list(data_type):
        data_type = data_type.value_type
    return pa.types.is_floating(data_type)


STATE_TYPE = pa.struct(
    [
        # code(8) ‖ config(8) ‖ weights(8) ‖ 16 bytes for each upstream, in the stage's declared order
        pa.field("fingerprint", pa.binary()),
        pa.field("digest", pa.binary(DIGEST_BYTES)),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("attempt", pa.int16()),
        pa.field("code_version", pa.string()),
    ]
)


IMPORTED = "imported"
"""`code_version` of a result that was read from files instead of computed; its `detail` says from which."""


def state_column(stage: str) -> str:
    """Name of the struct column that holds a stage's state; recipes have tables of their own for it."""
    return f"{base_name(stage)}_state"


def state_field(stage: str) -> pa.Field:
    """Arrow field of a stage's state column."""
    return pa.field(state_column(stage), STATE_TYPE)


FACES_STAGE = "faces"
"""The ingest is a stage like the others: its rows are ok or quarantined, its digest is the file's."""

FACES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("image", pa.binary(), metadata=IMAGE_METADATA),
        pa.field("image_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("orientation", pa.int8()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_size", pa.int64()),
        pa.field("source_mtime_ns", pa.int64()),
        pa.field("consent", pa.string(), nullable=False),
        state_field(FACES_STAGE),
    ]
)

PAIR_FIELDS = [
    pa.field("pair_id", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("source_image_id", pa.string(), nullable=False),
    pa.field("target_image_id", pa.string(), nullable=False),
]

SOURCE_ROOTS_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("layout", pa.string(), nullable=False),
        pa.field("shard_size", pa.int32(), nullable=False),
    ]
)
"""Folders that were ingested, and how: what a scheduled refresh reads again."""

SWAP_PAIRS_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("source_image_id", pa.string(), nullable=False),
        pa.field("target_image_id", pa.string(), nullable=False),
        pa.field("truth", pa.binary(), metadata=IMAGE_METADATA),
        pa.field("world", pa.string()),
        pa.field("use", pa.string(), nullable=False),
    ]
)
"""The pinned list of pairs to swap for evaluation, with the exact answer's file where a world knows it.

`world` holds the parameters that the answer was rendered from, as JSON (`resources.photos.world_parameters`).
`use` is "evaluation", or "training" for pairs whose exact answers may be learnt: those are never swapped, and
do not hold their people out.
"""

TRIPLETS_SCHEMA = pa.schema(PAIR_FIELDS)
"""One row per pseudo triplet: the donor photograph (source) and the photograph it is swapped onto."""

SWAPS_SCHEMA = pa.schema([*PAIR_FIELDS, pa.field("method", pa.string(), nullable=False)])
"""One row per (pair, method): the same pair is swapped by teacher, teacher with inversion, and student."""

DIFFFACE_SWAPS_SCHEMA = pa.schema(PAIR_FIELDS)
"""One row per evaluation pair of the default recipe: no recipe makes a difference to what DiffFace swaps."""

RECIPES_SCHEMA = pa.schema([pa.field("recipe", pa.string(), nullable=False)])
"""Recipes besides the default one that were started in this lake."""

ARTIFACTS_SCHEMA = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.binary(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("code_version", pa.string(), nullable=False),
        pa.field("location", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
"""One row per finished artifact (release, checkpoint, evaluation); the highest sequence is current."""

FRONTIERS = "frontiers"
"""Folder of the lake with the values of every pair that frontiers measured."""

EVALUATIONS_SCHEMA = pa.schema(
    [
        pa.field("evaluation", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
    ]
)
"""One row per metric of one method in one evaluation; low and high bound the 95 % interval."""
