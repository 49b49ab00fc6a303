"""Which repeat of a pair is best, and what the files of a swap are called.

Names are those of the published program; where it would write over a file of its own, a suffix is added.
Files are written by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.diffface.settings import DiffFaceSettings

DIGITS = 5
PER_UNIT = 10_000
"""A file's name is its distance in ten-thousandths, five digits: .1834 is 01834."""


def ranked(distances_R: ArrayLike) -> NDArray[np.int64]:
    """Repeats from the nearest identity to the farthest; those that stopped (NaN) last, equal ones in
    order."""
    return np.argsort(np.asarray(distances_R, np.float64), kind="stable")


def distance_digits(distance: float) -> str:
    """A distance 1 - cosine as five digits, cut off.

    Raises:
        ValueError: not finite, or outside 0..2 by more than rounding.
    """
    if not math.isfinite(distance) or not -1e-3 <= distance <= 2 + 1e-3:
        raise ValueError(f"an identity distance is 0 to 2, not {distance}")
    # cutting .1834 after four digits must not find .1833999
    return f"{int(max(0.0, distance) * PER_UNIT + 1e-6):0{DIGITS}d}"


@dataclass(frozen=True)
class RepeatFiles:
    """Files of one repeat, below the output folder.

    Attributes:
        picture: the swap, `{pair}_{repeat}.png`.
        rank: the same swap under its distance, `Rank{pair}/{five digits}.png`.
        figure: the finished six-panel figure, `{pair}/{stem}_i_{repeat}_b_0.png`.
    """

    picture: PurePosixPath
    rank: PurePosixPath
    figure: PurePosixPath

    def figure_at(self, index: int) -> PurePosixPath:
        """The figure of a step on the way; the published program writes each over the one before."""
        return self.figure.with_name(f"{self.figure.stem}_t_{index:03d}{self.figure.suffix}")


def repeat_files(
    pair: int, distances_R: Sequence[float], settings: DiffFaceSettings
) -> list[RepeatFiles | None]:
    """Names of the files of every repeat of a pair, in the order of the repeats.

    Args:
        pair: the pair's number.
        distances_R: identity distance of each repeat; NaN for one that stopped, which gets no files.
        settings: output_file, output_path, compat.

    Returns:
        Paths below `output_path` included. Repeats of equal distance get the suffixes _2, _3, ... unless
        `overwriting_ranks` is on.
    """
    root = PurePosixPath(settings.output_path)
    output = PurePosixPath(settings.output_file)
    seen: dict[str, int] = {}
    files: list[RepeatFiles | None] = []
    for repeat, distance in enumerate(distances_R):
        if math.isnan(distance):
            files.append(None)
            continue
        digits = distance_digits(distance)
        seen[digits] = seen.get(digits, 0) + 1
        again = "" if seen[digits] == 1 or settings.compat.overwriting_ranks else f"_{seen[digits]}"
        files.append(
            RepeatFiles(
                picture=root / f"{pair}_{repeat}.png",
                rank=root / f"Rank{pair}" / f"{digits}{again}.png",
                figure=root / str(pair) / f"{output.stem}_i_{repeat}_b_0{output.suffix}",
            )
        )
    return files
