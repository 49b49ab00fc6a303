"""Which photograph goes with which: partners by file name, and lists of swap pairs in CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, TextIO, get_args

from resources.photos.layouts import FoundPhoto, LayoutError
from resources.photos.world_parameters import WorldFileError, read_world_parameters

PairUse = Literal["evaluation", "training"]
"""What a pair is listed for: to be swapped and measured, or to be learnt from with its exact answer."""

HEADER = ["source", "target", "truth"]


class IdPair(NamedTuple):
    """Image ids of a source and a target that belong together."""

    source_id: str
    target_id: str


class SwapPair(NamedTuple):
    """One swap: the identity of `source` onto the photograph `target`.

    Attributes:
        source: image id of the photograph that gives the identity.
        target: image id of the photograph that gives everything else.
        truth: file with the exact answer, where one is known.
        world: parameters that the exact answer was rendered from, as JSON, where a world knows them.
        use: "evaluation" for a swap to make, "training" for one whose exact answer may be learnt.
    """

    source: str
    target: str
    truth: Path | None
    world: str | None = None
    use: PairUse = "evaluation"


class SwapPairsError(ValueError):
    """A list of swap pairs is malformed; the message names file and line."""


def ffhq_pairs(photos: Iterable[FoundPhoto]) -> list[IdPair]:
    """Pair `src/<stem>` with `trg/<stem>`, in order of the stems. Photographs with a problem take no part.

    Raises:
        LayoutError: a stem exists on one side only; names the first such stems.
    """
    sides: dict[str, dict[str, str]] = {"src": {}, "trg": {}}
    for photo in photos:
        side, separator, stem = photo.image_id.partition("/")
        if separator and side in sides and photo.problem is None:
            sides[side][stem] = photo.image_id
    single = sorted(sides["src"].keys() ^ sides["trg"].keys())
    if single:
        raise LayoutError(
            f"{len(single)} photographs have no partner of the same name in the other folder, first "
            f"{single[:5]}; add the partners or remove these files"
        )
    return [IdPair(sides["src"][stem], sides["trg"][stem]) for stem in sorted(sides["src"])]


def read_swap_pairs(csv_path: Path) -> list[SwapPair]:
    """Read a UTF-8 CSV with the header `source,target,truth` or `source,target,truth,use`, in file order.

    `source` and `target` are image ids. `truth` is a path relative to the CSV's folder, or empty where the
    answer is not known. `use` is evaluation (where it is not there, too) or training. Empty lines are passed
    over. A `world.json` in the folder gives the parameters of the truths that it names.

    Raises:
        SwapPairsError: unreadable file, another header, a missing or surplus cell, an empty id, a pair listed
            twice, a truth file that does not exist, or a damaged `world.json`. Says which line.
    """
    try:
        with csv_path.open(encoding="utf-8-sig", newline="") as file:
            pairs = _read_rows(csv_path, file)
        world = read_world_parameters(csv_path.parent)
    except WorldFileError as error:
        raise SwapPairsError(str(error)) from error
    except OSError as error:
        raise SwapPairsError(f"{csv_path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SwapPairsError(f"{csv_path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return [pair._replace(world=world.get((pair.source, pair.target, pair.truth))) for pair in pairs]


def _read_rows(csv_path: Path, file: TextIO) -> list[SwapPair]:
    reader = csv.reader(file, strict=True)
    pairs: list[SwapPair] = []
    seen: dict[tuple[str, str], int] = {}
    try:
        header = next(reader, [])
        if header not in (HEADER, [*HEADER, "use"]):
            found = ",".join(header)
            raise SwapPairsError(
                f"{csv_path}:1: the header must be source,target,truth or source,target,truth,use, not "
                f"{found!r}"
            )
        for cells in filter(None, reader):
            line = reader.line_num
            pair = _pair(cells, f"{csv_path}:{line}", csv_path.parent, len(header))
            first = seen.setdefault((pair.source, pair.target), line)
            if first != line:
                raise SwapPairsError(f"{csv_path}:{line}: this pair is listed in line {first} already")
            pairs.append(pair)
    except csv.Error as error:
        raise SwapPairsError(f"{csv_path}:{reader.line_num}: {error}") from error
    return pairs


def _pair(cells: list[str], where: str, folder: Path, columns: int) -> SwapPair:
    if len(cells) != columns:
        raise SwapPairsError(f"{where}: {len(cells)} cells, {columns} are needed (truth may be empty)")
    source, target, truth, use = (*cells, "evaluation")[:4]
    if use not in get_args(PairUse):
        raise SwapPairsError(f"{where}: use is {use!r}; it must be {' or '.join(get_args(PairUse))}")
    kind: PairUse = "training" if use == "training" else "evaluation"
    for name, image_id in (("source", source), ("target", target)):
        if "/" not in image_id.strip("/"):
            raise SwapPairsError(f"{where}: {name} {image_id!r} is no image id of the form identity/stem")
    if not truth:
        return SwapPair(source, target, None, use=kind)
    if not (folder / truth).is_file():
        raise SwapPairsError(f"{where}: the truth file {truth} does not exist beside the list")
    return SwapPair(source, target, folder / truth, use=kind)
