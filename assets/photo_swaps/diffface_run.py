"""`orchard diffface`: pairs of portraits swapped, every repeat kept and ranked, in the published layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assets.diffface_config import DIFFFACE
from assets.diffface_frames import DiffFacePair, swap_pairs
from assets.photo_swaps.diffface import DiffFaceFrames, OpenedDiffFace
from assets.photo_swaps.manifest import write_whole
from assets.photo_swaps.run import photo_id
from assets.swapping import picture_mark
from models.diffface.ranking import RepeatFiles, ranked, repeat_files
from models.diffface.swap_results import RepeatResult
from resources.photos.marking import Mark, mark_png
from resources.photos.reasons import RowError

PAIRS_AT_ONCE = 8
"""Pairs whose pictures are in memory together; how many are computed together is `batch_size`."""


@dataclass(frozen=True)
class NumberedPair:
    """A pair by position, and the files it is made of."""

    number: int
    source: Path
    target: Path


@dataclass
class PairReport:
    """What became of a pair.

    Attributes:
        pair: the pair.
        distances: identity distance of every repeat; None for one that stopped.
        files: of every repeat, those that were written.
        ranking: repeats from the nearest identity to the farthest.
        notes: what the experts could not do as usual.
        problem: why there is nothing at all.
    """

    pair: NumberedPair
    distances: list[float | None] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)
    ranking: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: RowError | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        told: dict[str, Any] = {
            "pair": self.pair.number,
            "source": str(self.pair.source),
            "target": str(self.pair.target),
        }
        if self.problem is not None:
            return told | {"reason": self.problem.reason.value, "detail": self.problem.detail}
        return told | {
            "identity_distances": self.distances,
            "ranking": self.ranking,
            "files": self.files,
            "notes": self.notes,
        }


def run_pairs(
    frames: DiffFaceFrames,
    opened: OpenedDiffFace,
    pairs: Sequence[NumberedPair],
    consent: str,
    *,
    panels: bool,
    report: Callable[[str], None],
) -> list[PairReport]:
    """Swap pairs and write every repeat, marked, below `output_path`; one report per pair, in order.

    A pair that cannot be swapped says why and the others go on.
    """
    reports = [PairReport(pair) for pair in pairs]
    for start in range(0, len(reports), PAIRS_AT_ONCE):
        going: list[tuple[PairReport, DiffFacePair]] = []
        for item in reports[start : start + PAIRS_AT_ONCE]:
            try:
                ready = frames.pair(item.pair.source, item.pair.target, item.pair.number)
            except RowError as error:
                item.problem = error
                report(f"pair {item.pair.number}: {error}")
            else:
                going.append((item, ready))
        if going:
            ready = [pair for _, pair in going]
            result = swap_pairs(opened.networks, ready, opened.settings, figures=panels)
            for (item, _), repeats in zip(going, result.repeats, strict=True):
                _write_pair(opened, item, repeats, consent)
    return reports


def _write_pair(
    opened: OpenedDiffFace, item: PairReport, repeats: Sequence[RepeatResult], consent: str
) -> None:
    distances = [repeat.distance for repeat in repeats]
    item.distances = [None if math.isnan(distance) else round(distance, 6) for distance in distances]
    item.ranking = [int(place) for place in ranked(distances) if repeats[place].reason is None]
    stopped = [f"repeat {one.repeat}: {one.reason}: {one.reason.advice}" for one in repeats if one.reason]
    item.notes = [*dict.fromkeys(note for repeat in repeats for note in repeat.notes), *stopped]
    mark = picture_mark(
        model_id=opened.model_id,
        stage=DIFFFACE,
        source=photo_id(item.pair.source),
        target=photo_id(item.pair.target),
        consent=consent,
    )
    for repeat, files in zip(
        repeats, repeat_files(item.pair.number, distances, opened.settings), strict=True
    ):
        item.files.append([] if files is None else _write_repeat(repeat, files, mark))


def _write_repeat(repeat: RepeatResult, files: RepeatFiles, mark: Mark) -> list[str]:
    pictures = {files.picture: repeat.image_HWC, files.rank: repeat.image_HWC}
    for figure in repeat.figures:
        pictures[files.figure if figure.index is None else files.figure_at(figure.index)] = figure.image_HWC
    for path, picture in pictures.items():
        write_whole(Path(path), mark_png(picture, mark))
    return [str(path) for path in pictures]
