"""What a report holds, as plain frozen values. Where something is missing, a sentence stands in its place."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import date

from pipeline.report.wording import Method, Metric


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page. `pixelated` pictures are enlarged without smoothing."""

    png: bytes
    alt: str
    title: str = ""
    pixelated: bool = False

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class ReasonCount:
    """How many rows were quarantined for a reason, and what the reason means."""

    reason: str
    count: int
    meaning: str


@dataclass(frozen=True)
class StageLine:
    """One stage's accounts. `unit` is what is counted: rows of a table, or the one result of the stage."""

    name: str
    description: str
    unit: str
    ok: int
    quarantined: int
    pending: int
    reasons: tuple[ReasonCount, ...]


@dataclass(frozen=True)
class AnnotationPreview:
    """Photographs as one stage sees them: the first of one shard, or of several, a picture for each shard."""

    stage: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Checkpoint:
    """One trained model: its id, what it was made from, and its loss curve.

    `outdated` says that something it was made from has changed since. `note` says why a part is missing.
    """

    stage: str
    model_id: str
    base_sha256: str | None
    facts: tuple[tuple[str, str], ...]
    curve: Picture | None
    outdated: bool
    note: str = ""


@dataclass(frozen=True)
class MetricCell:
    """A mean between the ends of its 95 % interval, over `count` pairs."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class MetricRow:
    """One method's values in the order of the evaluation's metrics; None where it was not measured."""

    method: Method
    cells: tuple[MetricCell | None, ...]


@dataclass(frozen=True)
class Evaluation:
    """The current evaluation. `rows` is empty when no pair had an exact answer."""

    digest: str
    metrics: tuple[Metric, ...]
    rows: tuple[MetricRow, ...]
    outdated: bool
    judge_is_not_independent: bool

    @property
    def counts(self) -> str:
        """Over how many pairs the means were taken, e.g. `32` or `30 to 32`."""
        counts = {cell.count for row in self.rows for cell in row.cells if cell is not None}
        return " to ".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "0"


@dataclass(frozen=True)
class SwapTile:
    """One picture of a pair's row, or none; `words` stand under it, or in its place.

    A tile of a `swapped` picture has the `model_id` that the picture's own mark names, None without a mark.
    """

    column: str
    picture: Picture | None
    words: str = ""
    swapped: bool = False
    model_id: str | None = None


@dataclass(frozen=True)
class SwapRow:
    """One pair: source, target, condition, one tile per method, truth."""

    pair_id: str
    source_id: str
    target_id: str
    tiles: tuple[SwapTile, ...]


@dataclass(frozen=True)
class Release:
    """The rows and pairs that the models were made from, pinned as a version of the lake.

    `day` is the day (UTC) on which that version was committed; None when the version is gone.
    """

    tag: str
    version: int
    day: date | None
    facts: tuple[tuple[str, str], ...]
    outdated: bool


@dataclass(frozen=True)
class ReportData:
    """Everything on the page."""

    lake: str
    profile: str
    profile_description: str
    orchard_version: str
    size: int
    photographs: int
    consents: tuple[tuple[str, int], ...]
    generative_consents: tuple[str, ...]
    stages: tuple[StageLine, ...]
    previews: tuple[AnnotationPreview, ...]
    stages_without_picture: tuple[str, ...]
    release: Release | None
    triplets: int | None
    checkpoints: tuple[Checkpoint, ...]
    evaluation: Evaluation | None
    swaps: tuple[SwapRow, ...]
    swap_pairs: int
    digital_source_type: str

    @property
    def only_rendered_people(self) -> bool:
        """Whether every photograph that may be trained on or swapped is recorded as synthetic."""
        return self.generative_consents == ("synthetic",)

    @property
    def swap_tiles(self) -> tuple[SwapTile, ...]:
        """All tiles that show a swapped picture."""
        return tuple(tile for row in self.swaps for tile in row.tiles if tile.swapped)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the parts that the lake does not hold yet."""
        made = {checkpoint.stage for checkpoint in self.checkpoints}
        parts = {
            "annotation": bool(self.previews),
            "release": self.release is not None,
            "teacher": "teacher" in made,
            "student": "student" in made,
            "evaluation": self.evaluation is not None and bool(self.evaluation.rows),
            "swaps": any(tile.picture for tile in self.swap_tiles),
        }
        return tuple(name for name, there in parts.items() if not there)
