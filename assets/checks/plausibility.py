"""`landmarks_plausible` and `iris_plausible`: geometry that a face can have.

The rules compare columns with each other (points, face box, alignment, size of the photograph), so that one
that was exchanged, scaled or moved stands out. They are wide: a face turned by 75 degrees passes. Distances
are measured in face boxes or in distances between the eyes, never in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from assets.checks.findings import NAMED_ROWS, Finding, judged, named
from assets.checks.rows import StageShard
from models.faces.alignment import FFHQ_SIZE
from resources.lake.arrow import compute as pc
from resources.lake.schema import Status, state_column

LANDMARK_COLUMNS = frozenset({"landmarks_68", "alignment", "face_box"})
IRIS_COLUMNS = frozenset({"iris_10"})
"""Outputs of a stage that can be judged; what they are compared with is read besides."""

Rules = dict[str, Any]
"""Broken rules of a batch: what is wrong, and which rows break it, as bool arrays (N,)."""

OUTSIDE_MARGIN = 0.75
"""Points may lie outside the photograph by so many face boxes: the mesh goes on where a face is cut off.
Photographs cut through the face measured up to 0.39."""

BESIDE_MARGIN = 0.25
"""The middle of all points may lie outside the face box by so much of its size; of faces that are cut off or
upside down it came as near the edge as 0.02 within."""

EYE_DISTANCE = (0.08, 0.9)
"""Eye distance over the longer side of the face box. Faces from the front measured 0.28 to 0.54, photographs
that were squeezed included; a turned head brings the eyes together."""

EXTENT = (0.35, 2.5)
"""Longer side of the box around all points over that of the face box; measured 0.67 to 1.06."""

CENTRAL = (1 / 3, 2 / 3)
"""Where the middle of the eyes lies in the aligned frame, as shares of its side; the recipe puts it at 0.5
and 0.47."""

ALONG_EYE = (-0.3, 1.3)
"""Where an iris may lie on the line from corner to corner of its eye; measured 0.16 to 0.75."""

BESIDE_EYE = 0.3
"""How far an iris may lie off that line, in eye distances; measured up to 0.08."""

IRIS_RADIUS = (0.02, 0.4)
"""Radius of an iris in eye distances; measured 0.07 to 0.12. A turned head shortens the eye distance."""


def landmarks_plausible(shard: StageShard) -> Finding:
    """Landmarks within the photograph and on the face box, eyes apart, upright in the aligned frame."""
    return _judge(shard, [*sorted(LANDMARK_COLUMNS), "width", "height"], _landmark_rules, "landmarks")


def iris_plausible(shard: StageShard) -> Finding:
    """Both irises within their eyes, of sensible size, the picture's left one on the left eye."""
    return _judge(shard, [*IRIS_COLUMNS, "landmarks_68"], _iris_rules, "irises")


def _judge(
    shard: StageShard, columns: Sequence[str], rules: Callable[[dict[str, np.ndarray]], Rules], what: str
) -> Finding:
    limit = shard.limits.implausible
    broken: Counter[str] = Counter()
    offending: dict[str, list[str]] = {}
    checked = 0
    for keys, values in _ok_rows(shard, columns):
        checked += len(keys)
        with np.errstate(all="ignore"):  # a value that is not finite breaks every rule, quietly
            found = rules(values)
        for rule, here in found.items():
            broken[rule] += int(here.sum())
            for place in np.flatnonzero(here):
                offending.setdefault(keys[place], []).append(rule)
    share = len(offending) / checked if checked else 0.0
    passed, severity = judged(share, limit)
    shown = dict(list(offending.items())[:NAMED_ROWS])
    figures: dict[str, Any] = {
        "checked_rows": checked,
        "implausible": len(offending),
        "share": round(share, 4),
        "rules_broken": {rule: count for rule, count in broken.items() if count},
        "rows": shown,
        "error_above": limit.error,
    }
    if passed:
        return Finding(True, f"{what} of {checked} rows can be those of a face", figures)
    causes = ", ".join(f"{rule} ({count})" for rule, count in broken.most_common() if count)
    return Finding(
        passed=False,
        message=f"{what} of {len(offending)} of {checked} rows cannot be right: {causes}. "
        f"Rows: {named(list(offending))}. Look at them in the preview of the asset; leave a photograph out "
        "with `orchard forget --image ID`, or compute the stage anew with "
        f"`orchard run {shard.name} --force`.",
        metadata=figures,
        severity=severity,
    )


def _ok_rows(shard: StageShard, columns: Sequence[str]) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    """Keys and values (float64, (N, ...)) of rows that are ok here and in the landmarks."""
    states = [f"{state_column(name)}.status" for name in dict.fromkeys((shard.name, "landmarks"))]
    for batch in shard.batches([shard.key, *states, *columns]):
        ok = np.ones(len(batch[shard.key]), dtype=bool)
        for state in states:
            ok &= np.asarray(pc.fill_null(pc.equal(batch[state], Status.OK.value), False)).astype(bool)
        for column in columns:  # what is missing is told by values_finite
            ok &= np.asarray(pc.is_valid(batch[column])).astype(bool)
        if ok.any():
            chosen = pa.array(ok)
            values = {name: _numbers(batch[name].filter(chosen)) for name in columns}
            yield batch[shard.key].filter(chosen).to_pylist(), values


def _numbers(values: pa.Array) -> np.ndarray:
    if not pa.types.is_fixed_size_list(values.type):
        return values.to_numpy(zero_copy_only=False).astype(np.float64)
    width = values.type.list_size
    flat = values.values.slice(values.offset * width, len(values) * width)
    return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(values), width)


def _landmark_rules(values: dict[str, np.ndarray]) -> Rules:
    points_N68x2 = values["landmarks_68"].reshape(-1, 68, 2)
    box_N4 = values["face_box"]
    matrix_N2x3 = values["alignment"].reshape(-1, 2, 3)
    size_N = (box_N4[:, 2:] - box_N4[:, :2]).max(axis=1)
    low, high = points_N68x2.min(axis=1), points_N68x2.max(axis=1)
    photo = np.stack([values["width"], values["height"]], axis=1)
    margin, near = OUTSIDE_MARGIN * size_N[:, None], BESIDE_MARGIN * size_N[:, None]
    middle = (low + high) / 2
    aligned = points_N68x2 @ matrix_N2x3[:, :, :2].transpose(0, 2, 1) + matrix_N2x3[:, None, :, 2]
    left, right = aligned[:, 36:42].mean(axis=1), aligned[:, 42:48].mean(axis=1)
    eyes, mouth, brows = (left + right) / 2, aligned[:, 48:68].mean(axis=1), aligned[:, 17:27].mean(axis=1)
    return {
        "outside the photograph": ~((low >= -margin) & (high <= photo + margin)).all(axis=1),
        "eyes in one place or too far apart": ~_within(_eye_distance(points_N68x2) / size_N, EYE_DISTANCE),
        "beside the face box": ~((middle >= box_N4[:, :2] - near) & (middle <= box_N4[:, 2:] + near)).all(
            axis=1
        ),
        "another size than the face box": ~_within((high - low).max(axis=1) / size_N, EXTENT),
        "left and right exchanged when aligned": ~(left[:, 0] < right[:, 0]),
        "upside down when aligned": ~((brows[:, 1] < mouth[:, 1]) & (eyes[:, 1] < mouth[:, 1])),
        "eyes off the middle of the aligned frame": ~_within(eyes / FFHQ_SIZE, CENTRAL).all(axis=1),
    }


def _iris_rules(values: dict[str, np.ndarray]) -> Rules:
    points_N68x2 = values["landmarks_68"].reshape(-1, 68, 2)
    iris_N10x2 = values["iris_10"].reshape(-1, 10, 2)
    distance_N = _eye_distance(points_N68x2)
    along, beside, radius = [], [], []
    for first, corners in ((0, (36, 39)), (5, (42, 45))):
        centre_N2 = iris_N10x2[:, first]
        start_N2 = points_N68x2[:, corners[0]]
        line_N2 = points_N68x2[:, corners[1]] - start_N2
        offset_N2 = centre_N2 - start_N2
        length_N = np.linalg.norm(line_N2, axis=1)
        cross = offset_N2[:, 0] * line_N2[:, 1] - offset_N2[:, 1] * line_N2[:, 0]
        along.append((offset_N2 * line_N2).sum(axis=1) / length_N**2)
        beside.append(np.abs(cross) / length_N / distance_N)
        rim_N4x2 = iris_N10x2[:, first + 1 : first + 5] - centre_N2[:, None]
        radius.append(np.linalg.norm(rim_N4x2, axis=2).mean(axis=1) / distance_N)
    return {
        "iris not between the corners of its eye": ~_within(np.stack(along), ALONG_EYE).all(axis=0),
        "iris above or below its eye": ~(np.stack(beside) <= BESIDE_EYE).all(axis=0),
        "iris of impossible size": ~_within(np.stack(radius), IRIS_RADIUS).all(axis=0),
    }


def _eye_distance(points_N68x2: np.ndarray) -> np.ndarray:
    """Distance between the middles of the eyes, (N,)."""
    between = points_N68x2[:, 42:48].mean(axis=1) - points_N68x2[:, 36:42].mean(axis=1)
    return np.linalg.norm(between, axis=1)


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])
