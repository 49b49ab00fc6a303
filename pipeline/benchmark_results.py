"""Results of anybody's program: found by name, decoded under limits, brought to the size of comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resources.photos.decoding import DEFAULT_LIMITS, decode_upright, read_photo
from resources.photos.reasons import RowError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
SMALLEST_SIDE = 16
_LIMITS = DEFAULT_LIMITS.model_copy(update={"min_side": SMALLEST_SIDE})


class ResultsError(ValueError):
    """Results that cannot be scored.

    Attributes:
        faults: one line per pair without a usable result.
    """

    def __init__(self, folder: Path, faults: Sequence[str]) -> None:
        super().__init__(folder, faults)
        self.folder = folder
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        return (
            f"{len(self.faults)} pairs have no usable result in {self.folder}, so nothing is scored:\n{lines}"
        )


@dataclass(frozen=True)
class Results:
    """The results of all pairs, in order.

    Attributes:
        pictures_NHWC: uint8 RGB (N, size, size, 3), resized.
        sides_N: width and height of each as it was handed in, pixels.
        unused: names of pictures in the folder that belong to no pair.
    """

    pictures_NHWC: NDArray[np.uint8]
    sides_N: tuple[int, ...]
    unused: tuple[str, ...]

    def describe(self) -> str:
        """How large the results are, for people: `200 of 32 px`."""
        counts = sorted(Counter(self.sides_N).items())
        return ", ".join(f"{count} of {side} px" for side, count in counts)


def read_results(folder: Path, names: Sequence[str], size: int) -> Results:
    """Read one picture per name from a folder, `<name>` with any ending of `ENDINGS`.

    Raises:
        ResultsError: a folder, a picture or a part of one is missing, a picture is not square, or a name has
            several pictures. It lists all of them.
    """
    if not folder.is_dir():
        raise ResultsError(folder, [f"{name}: there is no such folder" for name in names])
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    pictures, sides, faults = [], [], []
    for name in names:
        paths = found.pop(name, [])
        if len(paths) != 1:
            several = f"several pictures: {', '.join(path.name for path in paths)}"
            faults.append(f"{name}: {several if paths else 'missing'}")
            continue
        try:
            picture = decode_upright(read_photo(paths[0]), _LIMITS)
        except RowError as error:
            faults.append(f"{paths[0].name}: {error}")
            continue
        height, width = picture.shape[:2]
        if height != width:
            faults.append(f"{paths[0].name}: {width}x{height} is not square, as its target is")
            continue
        pictures.append(resized(picture, size))
        sides.append(width)
    if faults:
        raise ResultsError(folder, faults)
    unused = tuple(path.name for paths in found.values() for path in paths)
    return Results(np.stack(pictures), tuple(sides), unused)


def resized(picture_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square picture at another size: averaged when it shrinks, bicubic when it grows."""
    if picture_HWC.shape[0] == size:
        return picture_HWC
    filtering = Image.Resampling.BOX if size < picture_HWC.shape[0] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture_HWC).resize((size, size), filtering))
