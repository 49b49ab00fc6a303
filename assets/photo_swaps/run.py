"""Swapping one pair or many: files written, marked, recorded, and skipped where they are there already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from assets.photo_swaps.manifest import SwapEntry, SwapManifest, write_whole
from assets.photo_swaps.outputs import SwappedPhoto
from assets.photo_swaps.pairs import PhotoPair
from assets.photo_swaps.settings import SwapSettings
from assets.swapping import picture_mark
from resources.lake.errors import LakeError
from resources.photos.decoding import read_photo
from resources.photos.marking import Mark, mark_png
from resources.photos.names import escape
from resources.photos.reasons import RowError

PAIRS_AT_ONCE = 8
"""Pairs whose photographs are in memory together."""


class Swaps(Protocol):
    """What swaps photographs: `PhotoSwapper` with a checkpoint, or a `FaceByFaceSwapper` without."""

    settings: SwapSettings
    grid: bool

    @property
    def model_id(self) -> str:
        """What marks and manifests call it."""
        ...

    @property
    def decided(self) -> dict[str, Any]:
        """What decides results besides photographs and settings, for digests."""
        ...

    def swap(self, pairs: Sequence[PhotoPair]) -> list[SwappedPhoto | RowError]:
        """One outcome per pair, in order."""
        ...


@dataclass
class RunSummary:
    """What a run over many pairs did."""

    manifest: Path
    swapped: int = 0
    skipped: int = 0
    failed: dict[str, RowError] = field(default_factory=dict)

    @property
    def reasons(self) -> Counter[str]:
        """Failed pairs by reason."""
        return Counter(error.reason.value for error in self.failed.values())


@dataclass(frozen=True)
class OutputNames:
    """Where the files of a pair go, below the folder; a grid or mask that is not wanted is None."""

    picture: str
    grid: str | None
    mask: str | None

    @classmethod
    def in_folder(cls, stem: str, *, grid: bool, mask: bool) -> OutputNames:
        """As APPLE's scripts lay them out: `<stem>.png` and `grid/<stem>_grid.png`."""
        return cls(
            f"{stem}.png",
            f"grid/{stem}_grid.png" if grid else None,
            f"mask/{stem}_mask.png" if mask else None,
        )

    @classmethod
    def beside(cls, out: Path, *, grid: bool, mask: bool) -> OutputNames:
        """Of a single pair, all beside `out`."""
        return cls(
            out.name, f"{out.stem}_grid.png" if grid else None, f"{out.stem}_mask.png" if mask else None
        )

    @property
    def wanted(self) -> list[str]:
        """All that are to be written."""
        return [name for name in (self.picture, self.grid, self.mask) if name is not None]


def swap_one(
    swapper: Swaps, pair: PhotoPair, out: Path, consent: str, *, mask: bool = False
) -> tuple[Mark, SwappedPhoto]:
    """Swap one pair and write it. Raises LakeError when a photograph cannot be used."""
    (outcome,) = swapper.swap([pair])
    if isinstance(outcome, RowError):
        raise LakeError(f"{pair.source} onto {pair.target} cannot be swapped: {outcome}")
    mark = pair_mark(swapper, pair, consent)
    names = OutputNames.beside(out, grid=swapper.grid, mask=mask)
    _write(out.parent, names, outcome, mark)
    return mark, outcome


def swap_many(
    swapper: Swaps,
    pairs: Sequence[PhotoPair],
    folder: Path,
    consent: str,
    *,
    mask: bool = False,
    report: Callable[[str], None] = print,
) -> RunSummary:
    """Swap pairs into a folder, a few at a time; those that the manifest vouches for are skipped.

    A pair that cannot be swapped is recorded with its reason and tried again by the next run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = SwapManifest(folder)
    summary = RunSummary(manifest.path)
    settings = settings_digest(swapper, consent)
    names = {pair.name: OutputNames.in_folder(pair.name, grid=swapper.grid, mask=mask) for pair in pairs}
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        photos = {pair.name: photo_digests(pair) for pair in part}
        todo = [
            pair
            for pair in part
            if not manifest.has(pair.name, settings, photos[pair.name], names[pair.name].wanted)
        ]
        summary.skipped += len(part) - len(todo)
        for pair, outcome in zip(todo, swapper.swap(todo), strict=True):
            entry = SwapEntry(
                name=pair.name,
                settings=settings,
                photos=photos[pair.name],
                model_id=swapper.model_id,
            )
            if isinstance(outcome, RowError):
                summary.failed[pair.name] = outcome
                report(f"{escape(pair.name)}: {outcome}")
                made = {"reason": outcome.reason.value, "detail": outcome.detail}
            else:
                summary.swapped += 1
                mark = pair_mark(swapper, pair, consent)
                files = _write(folder, names[pair.name], outcome, mark)
                made = {"files": files, "faces": tuple(face.summary() for face in outcome.faces)}
            manifest.add(entry.model_copy(update=made))
    return summary


def pair_mark(swapper: Swaps, pair: PhotoPair, consent: str) -> Mark:
    """What every picture of a pair says about itself."""
    return picture_mark(
        model_id=swapper.model_id,
        stage=f"swap/{swapper.settings.method}",
        source=photo_id(pair.source),
        target=photo_id(pair.target),
        consent=consent,
    )


def photo_id(path: Path) -> str:
    """What a mark calls a photograph that is in no lake: its name and the start of its bytes' SHA-256."""
    return f"{escape(path.name)} sha256:{sha256(read_photo(path)).hexdigest()[:16]}"


def photo_digests(pair: PhotoPair) -> dict[str, str]:
    """SHA-256 of the pair's photographs that can be read."""
    found = {}
    for name, path in (("source", pair.source), ("target", pair.target), ("condition", pair.condition)):
        if path is not None:
            try:
                found[name] = sha256(read_photo(path)).hexdigest()
            except RowError:  # swapping the pair says the same with its reason
                continue
    return found


def settings_digest(swapper: Swaps, consent: str) -> str:
    """Digest of everything besides the photographs that decides a result: settings, models, consent."""
    choices = (swapper.settings.faces, swapper.settings.source_face)
    people = [choice.photo for choice in choices if choice is not None and choice.photo is not None]
    decided = {
        "settings": swapper.settings.model_dump(mode="json"),
        "people": [sha256(read_photo(path)).hexdigest() for path in people],
        "consent": consent,
        **swapper.decided,
    }
    return sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, names: OutputNames, made: SwappedPhoto, mark: Mark) -> dict[str, str]:
    """Write picture, grid and mask, all marked; their digests by name."""
    pictures = {names.picture: made.picture}
    if names.grid is not None and made.grid is not None:
        pictures[names.grid] = made.grid
    if names.mask is not None and made.mask_HW is not None:
        pictures[names.mask] = np.repeat(made.mask_HW[..., None].astype(np.uint8) * 255, 3, axis=2)
    return {name: write_whole(folder / name, mark_png(picture, mark)) for name, picture in pictures.items()}
