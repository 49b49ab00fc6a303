"""Which photographs are swapped, and reading them: one pair, two folders, or APPLE's FFHQ tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.faces.condition import ConditionRecipe
from models.faces.images import Image
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright, read_photo
from resources.photos.layouts import SIDECAR_SUFFIXES
from resources.photos.names import escape
from resources.photos.reasons import Reason, RowError

SOURCE_FOLDER, TARGET_FOLDER = "src", "trg"
CONDITION_SUFFIXES = (".png", ".jpg")
"""Condition images in the tree, in the order in which they are looked for."""


@dataclass(frozen=True)
class PhotoPair:
    """One swap to make.

    Attributes:
        name: stem of the target; names the output.
        source: photograph that gives the identity.
        target: photograph that gives everything else.
        condition: ready-made condition image of the target, where one is to be used.
        problem: why there is nothing to swap, found while pairing.
    """

    name: str
    source: Path
    target: Path
    condition: Path | None = None
    problem: RowError | None = None


def of_side(side: str, error: RowError) -> RowError:
    """The same reason, saying which photograph of a pair it is about."""
    return RowError(error.reason, f"{side}: {error.detail}")


@contextmanager
def about(side: str) -> Iterator[None]:
    """A RowError from within says which photograph of a pair it is about."""
    try:
        yield
    except RowError as error:
        raise of_side(side, error) from error


def read_side(side: str, path: Path) -> Image:
    """A photograph of a pair, upright. Raises RowError, which says `side`, where it cannot be read."""
    with about(side):
        return decode_upright(read_photo(path))


def folder_pairs(sources: Path, targets: Path, conditions: Path | None = None) -> list[PhotoPair]:
    """Pairs of the same stem in two folders, sorted; with `conditions`, the folder of condition images.

    A stem on one side only, and one that two files of a folder share, are pairs with a `problem`.

    Raises:
        LakeError: a folder is none, or there is no photograph in either.
    """
    sides = (_photographs(sources), _photographs(targets))
    stems = sorted(sides[0].keys() | sides[1].keys())
    if not stems:
        raise LakeError(f"no photograph lies in {sources} or {targets}")
    pairs = []
    for stem in stems:
        problem = None
        for folder, found in zip((sources, targets), sides, strict=True):
            names = [path.name for path in found.get(stem, [])]
            if not names:
                problem = RowError(Reason.UNREADABLE, f"{folder.name} has no photograph named {escape(stem)}")
            elif len(names) > 1:
                problem = RowError(Reason.DUPLICATE_ID, f"{folder.name} has {', '.join(map(escape, names))}")
        source, target = (
            found.get(stem, [folder / stem])[0]
            for folder, found in zip((sources, targets), sides, strict=True)
        )
        condition = None
        if conditions is not None and problem is None:
            candidates = [conditions / f"{stem}{suffix}" for suffix in CONDITION_SUFFIXES]
            condition = next((path for path in candidates if path.is_file()), None)
            if condition is None:
                problem = RowError(
                    Reason.UNREADABLE, f"{conditions.name} has no condition image {escape(stem)}"
                )
        pairs.append(PhotoPair(stem, source, target, condition, problem))
    return pairs


def published_conditions(root: Path, recipe: ConditionRecipe) -> Path | None:
    """Folder of the FFHQ tree with condition images of this recipe; None where the tree has none."""
    folder = root / TARGET_FOLDER / recipe.folder
    return folder if folder.is_dir() else None


def ffhq_pairs(root: Path, conditions: Path | None = None) -> list[PhotoPair]:
    """Pairs of `<root>/src/<stem>.*` and `<root>/trg/<stem>.*`. Raises as `folder_pairs`."""
    return folder_pairs(root / SOURCE_FOLDER, root / TARGET_FOLDER, conditions)


def _photographs(folder: Path) -> dict[str, list[Path]]:
    """Files directly in a folder that may be photographs, by stem; what is drawn lies in folders below."""
    if not folder.is_dir():
        raise LakeError(f"{folder} is no folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in SIDECAR_SUFFIXES or path.is_dir():
            continue
        found.setdefault(path.stem, []).append(path)
    return found
