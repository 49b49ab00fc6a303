"""The pairs of the field's tables: 1,000 sources and targets of FFHQ, pinned by rule and by SHA-256.

REFace's kit takes FFHQ 68000 to 68999 as targets and 69000 to 69999 as sources, in order: target 68000 gets
the face of 69000. APPLE reports 1,000 FFHQ pairs, publishes no list, and evaluates with that kit, as far as
can be seen. FFHQ itself is not here: its photographs carry licences of their own.

    python -m models.metrics.ffhq_pairs ffhq_pairs.csv
    orchard ingest FFHQ_FOLDER --layout flat --swap-pairs ffhq_pairs.csv
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

PAIRS = 1000
FIRST_TARGET, FIRST_SOURCE = 68_000, 69_000

IMAGE_ID = "{0:05d}/{0:05d}"
"""Image id of a number, for a folder that holds `00000.png` to `69999.png` and was read as `flat`."""

CSV_SHA256 = "87bdf8a9aa718b8161627c16a8fcc63667c1c9994da140fba318f01b25c0a240"
"""Digest of `ffhq_pairs_csv()`."""


class FfhqPair(NamedTuple):
    """Numbers of two FFHQ photographs, 0 to 69999."""

    source: int
    target: int


def ffhq_pairs() -> tuple[FfhqPair, ...]:
    """The 1,000 pairs in order."""
    return tuple(FfhqPair(FIRST_SOURCE + row, FIRST_TARGET + row) for row in range(PAIRS))


def ffhq_pairs_csv(image_id: str = IMAGE_ID) -> str:
    """The list as `orchard ingest --swap-pairs` reads it; nobody knows the exact answers.

    `image_id` makes an id of a number by `str.format`, for folders that name photographs otherwise.
    """
    lines = [f"{image_id.format(pair.source)},{image_id.format(pair.target)}," for pair in ffhq_pairs()]
    return "\n".join(["source,target,truth", *lines, ""])


def main(arguments: list[str]) -> None:
    """Write the list to the file that is named."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m models.metrics.ffhq_pairs FILE")
    content = ffhq_pairs_csv().encode()
    Path(arguments[0]).write_bytes(content)
    print(f"{arguments[0]}: {PAIRS} pairs, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1:])
