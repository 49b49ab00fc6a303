"""What a report holds, as plain frozen values. Where something is missing, a sentence stands in its place."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from assets.evaluation import COPY_TARGET
from pipeline.report.wording import GROUPS, Method, Metric

if TYPE_CHECKING:  # they are made of the values below
    from pipeline.report.frontier import FrontierPart
    from pipeline.report.protocol import ProtocolPart


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


CHANCE = 1 / 20
"""How often the source is found among 20 by nobody's doing."""


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
    """The current evaluation. `rows` is empty when no pair had an exact answer.

    `training_judges` are the judges of identity that took part in training, `other_judges` the rest.
    `not_measured` says what could not be measured, and why; empty where all was.
    """

    digest: str
    metrics: tuple[Metric, ...]
    rows: tuple[MetricRow, ...]
    outdated: bool
    training_judges: tuple[str, ...]
    other_judges: tuple[str, ...]
    not_measured: str = ""

    @property
    def tables(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """A title for each table, and the places of its metrics."""
        found = {
            title: tuple(place for place, item in enumerate(self.metrics) if item.group == group)
            for group, title in GROUPS.items()
        }
        return tuple((title, places) for title, places in found.items() if places)

    def judged_by(self, item: Metric) -> str:
        """What is to be known of the network behind a metric of identity; empty for other metrics."""
        if any(item.key.endswith(f"_{judge}") for judge in self.training_judges):
            return "This network took part in training, so it may be kind to the models."
        if any(item.key.endswith(f"_{judge}") for judge in self.other_judges):
            return "No training ever saw this network."
        return ""

    @property
    def verdict(self) -> tuple[str, ...]:
        """A sentence for each method: does it show the source, and is it better than doing nothing."""
        return tuple(filter(None, (self._sentence(row) for row in self.rows if not row.method.reference)))

    def _sentence(self, row: MetricRow) -> str:
        copied = next((item for item in self.rows if item.method.key == COPY_TARGET), None)
        if copied is None:
            return ""
        found, leaked, face, nothing = (
            line.cells[place] if (place := self._place(key)) is not None else None
            for line, key in ((row, "rank_1_of_20"), (row, "leak"), (row, "face_psnr"), (copied, "face_psnr"))
        )
        parts = []
        if found is not None:
            above = "more than chance" if found.low > CHANCE else "not told from chance"
            parts.append(f"the source is found among 20 people for {found.mean:.0%} of the pairs ({above})")
        if leaked is not None:
            parts.append(f"{leaked.mean:.0%} of the faces are still nearer to the target")
        if face is not None and nothing is not None:
            gain = face.mean - nothing.mean
            than = "above" if gain >= 0 else "below"
            parts.append(f"the face is {abs(gain):.1f} dB {than} the copied target")
        return f"{row.method.name}: {'; '.join(parts)}." if parts else ""

    def _place(self, key: str) -> int | None:
        keys = [item.key for item in self.metrics]
        return keys.index(key) if key in keys else None

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
    frontier: FrontierPart | None
    protocol: ProtocolPart | None
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
