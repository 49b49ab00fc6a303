"""What the lake knows of its photographs' files, for an ingest: arrays, with no Python object per row.

An ingest of 1.5 million unchanged files asks for every row and needs one number of each: where it is. So only
the names become Python strings; everything else stays in Arrow until a file turns out to have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from resources.lake.arrow import compute as pc
from resources.lake.arrow import one_piece
from resources.lake.lake import Lake

COLUMNS = ("image_id", "source", "source_size", "source_mtime_ns", "image_sha256", "consent", "shard")
REPEATED = ("consent", "shard")
UNKNOWN = -1
"""Size and time of a file that could not be looked at when it was ingested."""


@dataclass(frozen=True)
class KnownRow:
    """What is recorded of one photograph's file."""

    source: str
    sha256: str | None
    consent: str
    shard: str


class KnownRows:
    """The rows of the table of photographs at one version, by image id; remembers which ones were seen.

    `shard` limits them to one shard's.
    """

    def __init__(self, lake: Lake, shard: str | None = None) -> None:
        columns: dict[str, list[pa.Array]] = {name: [] for name in COLUMNS}
        self._places: dict[str, int] = {}
        for chunk in lake.faces.snapshot().scan_chunks(COLUMNS, shard=shard):
            for name in COLUMNS:
                values = one_piece(chunk[name])
                # a copy: what Lance handed out keeps everything alive that was read with it
                columns[name].append(
                    values.dictionary_encode() if name in REPEATED else pa.concat_arrays([values])
                )
            start = len(self._places)
            keys = columns["image_id"].pop().to_pylist()
            self._places.update(zip(keys, range(start, start + len(keys)), strict=True))
        self._source = pa.chunked_array(columns["source"], pa.string()).combine_chunks()
        self._sha256 = pa.chunked_array(columns["image_sha256"], pa.string())
        self._consent, self._shard = (pa.chunked_array(columns[name]) for name in REPEATED)
        self._sizes, self._times = (
            np.asarray(pc.fill_null(pa.chunked_array(columns[name], pa.int64()), UNKNOWN))
            for name in ("source_size", "source_mtime_ns")
        )
        self._seen = np.zeros(len(self._places), dtype=bool)

    def __len__(self) -> int:
        return len(self._places)

    def see(self, image_id: str) -> int | None:
        """Place of a photograph's row, None for a new one. From now on it is no missing one."""
        place = self._places.get(image_id)
        if place is not None:
            self._seen[place] = True
        return place

    def row(self, place: int) -> KnownRow:
        """What is recorded of the file of the row at a place."""
        return KnownRow(
            source=self._source[place].as_py(),
            sha256=self._sha256[place].as_py(),
            consent=self._consent[place].as_py(),
            shard=self._shard[place].as_py(),
        )

    def is_file(self, place: int, source: str, size: int, mtime_ns: int) -> bool:
        """Whether the row at a place was made from this file, with this size and modification time (ns)."""
        return (
            self._sizes[place] == size
            and self._times[place] == mtime_ns
            and self._source[place].as_py() == source
        )

    def consent(self, place: int) -> str:
        """Consent recorded with the row at a place."""
        return self._consent[place].as_py()

    def missing(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Image id and source of the rows not seen whose source starts with a prefix."""
        unseen = pa.array(~self._seen)
        if not pc.any(unseen).as_py():
            return
        left = pc.and_(unseen, pc.starts_with(self._source, prefix))
        chosen = frozenset(np.flatnonzero(np.asarray(left)).tolist())
        for image_id, place in self._places.items():
            if place in chosen:
                yield image_id, self._source[place].as_py()
