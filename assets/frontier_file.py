"""What a frontier keeps: every value of every pair in one Parquet file, and the summary in its header.

One row is one pair swapped by one method at one guidance scale; rows without a scale are references that have
none (the copied target, the codec's ceiling, a classical swap). Values of single pairs are kept so that
frontiers of two lakes or recipes can be compared pair by pair. The pictures of the first pairs are marked
PNGs like every swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from resources.lake.digest import digest_bytes, digest_json
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import FRONTIERS

SUMMARY_KEY = b"orchard_frontier"
KEYS = ("pair_id", "source_image_id", "target_image_id", "method")
DIGITS = 6
"""Values are rounded to so many digits before they are hashed."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Point(_Frozen):
    """Mean of one metric of a method at a scale, with its 95 % interval over `count` pairs."""

    method: str
    scale: float | None
    metric: str
    mean: float
    low: float
    high: float
    count: int


class Matched(_Frozen):
    """One attribute's error of a method where it shows as much identity as the reference method.

    Of `difference` (less the reference's error) and `value` the ends of the intervals are None where too few
    resamples reach the level. `scale` is interpolated.
    """

    axis: str
    method: str
    level: float
    scale: float
    metric: str
    value: float
    low: float | None
    high: float | None
    difference: float
    difference_low: float | None
    difference_high: float | None


class Summary(_Frozen):
    """A frontier in figures. `unmatched` names, by axis, methods that never show the reference's identity."""

    reference: str
    axes: tuple[str, ...]
    pairs: int
    points: tuple[Point, ...]
    matched: tuple[Matched, ...]
    unmatched: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FrontierRow:
    """One pair by one method at one scale: its values by metric, and the marked PNG where it is kept."""

    pair_id: str
    source_id: str
    target_id: str
    method: str
    scale: float | None
    values: dict[str, float]
    swap: bytes | None = None


def frontier_digest(rows: Sequence[FrontierRow]) -> bytes:
    """Digest of everything that was measured and kept."""
    return digest_json(
        [
            [
                row.pair_id,
                row.method,
                row.scale,
                # NaN is not JSON's, and a value that does not exist is none
                {name: None if v != v else round(v, DIGITS) for name, v in row.values.items()},
                digest_bytes(row.swap or b"").hex(),
            ]
            for row in rows
        ]
    )


def keep_frontier(lake: Lake, rows: Sequence[FrontierRow], summary: Summary) -> str:
    """Write the file, whole or not at all, under a name that its content gives; returns its location."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.values))
    keys = [(row.pair_id, row.source_id, row.target_id, row.method) for row in rows]
    columns: dict[str, pa.Array] = {
        name: pa.array(values, pa.string())
        for name, values in zip(KEYS, zip(*keys, strict=True), strict=True)
    }
    columns["scale"] = pa.array([row.scale for row in rows], pa.float64())
    for name in metrics:
        columns[name] = pa.array([row.values.get(name) for row in rows], pa.float64(), from_pandas=True)
    columns["swap"] = pa.array([row.swap for row in rows], pa.binary())
    table = pa.table(columns).replace_schema_metadata({SUMMARY_KEY: summary.model_dump_json().encode()})
    path = lake.folder(FRONTIERS) / f"{frontier_digest(rows).hex()[:16]}.parquet"
    temporary = path.with_suffix(".unfinished")
    pq.write_table(table, temporary)
    temporary.replace(path)
    return lake.publish(path)


def read_summary(lake: Lake, artifact: Artifact) -> Summary | None:
    """The figures of a frontier; None where nothing was measured.

    Raises LakeError or OSError when its file is gone.
    """
    if artifact.location is None:
        return None
    metadata = pq.read_schema(lake.fetch(artifact.location)).metadata
    return Summary.model_validate_json(metadata[SUMMARY_KEY])


def read_rows(lake: Lake, artifact: Artifact, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a frontier's file, or the named columns of them; empty where nothing was measured."""
    if artifact.location is None:
        return []
    return pq.read_table(
        lake.fetch(artifact.location), columns=None if columns is None else list(columns)
    ).to_pylist()
