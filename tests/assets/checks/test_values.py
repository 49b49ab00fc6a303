"""Checks of what rows hold: numbers that are finite, points that a face can have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from assets.checks.findings import Severity
from assets.checks.limits import CheckLimits, ShareLimit

SHARD = "shard-00001"
"""The one that is looked at unless another is named."""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_in_any_float_column(damage, look, value) -> None:
    keys = damage.ids()

    def spoil(values: np.ndarray) -> np.ndarray:
        values[7] = value
        return values

    damage.values("latent_condition", spoil, [keys[1]])
    damage.rewrite("faces", lambda rows: damage.put(rows, "face_score", "image_id", {keys[2]: value}))
    run = look("latents", "values_finite")
    assert run.finding.metadata["rows"] == [keys[1]]
    assert run.finding.metadata["wrong"] == {"latent_condition is not finite": 1}
    assert "orchard run latents --force" in run.finding.message
    assert look("landmarks", "values_finite").finding.metadata["rows"] == [keys[2]]
    assert look("landmarks", "values_finite", "shard-00000").finding.passed


def test_a_value_is_there_exactly_when_its_row_is_ok(damage, look) -> None:
    keys = damage.ids()
    damage.rewrite("faces", lambda rows: damage.put(rows, "visible_face", "image_id", {keys[0]: None}))
    damage.state("masks", keys[4:5], status="quarantined", reason="no_face")
    run = look("masks", "values_finite")
    assert run.finding.metadata["wrong"] == {
        "parsing is there though the row is not ok": 1,
        "visible_face is missing": 1,
        "visible_face is there though the row is not ok": 1,
    }
    assert run.finding.metadata["rows"] == [keys[4], keys[0]] or run.finding.metadata["rows"] == [
        keys[0],
        keys[4],
    ]


FAR = np.array([4000.0, 4000.0])


def shifted(by: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: points.reshape(-1, 2) + by


def mirrored(points: np.ndarray) -> np.ndarray:
    """Left and right of the picture exchanged, the order of the points kept: eyes change places."""
    found = points.reshape(-1, 2).copy()
    found[:, 0] = 2 * found[:, 0].mean() - found[:, 0]
    return found


def upside_down(matrix: np.ndarray) -> np.ndarray:
    """The alignment turned by 180 degrees about the middle of its 512-pixel frame."""
    return np.array([[-1, 0, 512], [0, -1, 512], [0, 0, 1]]) @ np.vstack([matrix.reshape(2, 3), [0, 0, 1]])


def collapsed(points: np.ndarray) -> np.ndarray:
    found = points.reshape(-1, 2).copy()
    found[36:48] = found[36:48].mean(axis=0)
    return found


@pytest.mark.parametrize(
    ("column", "change", "rule"),
    [
        ("landmarks_68", shifted(FAR), "outside the photograph"),
        ("landmarks_68", shifted(np.array([0.0, -130.0])), "beside the face box"),
        ("landmarks_68", lambda points: points * 0.2, "another size than the face box"),
        ("landmarks_68", mirrored, "left and right exchanged when aligned"),
        ("landmarks_68", collapsed, "eyes in one place or too far apart"),
        ("landmarks_68", lambda points: points * np.nan, "eyes in one place or too far apart"),
        ("alignment", lambda matrix: upside_down(matrix)[:2], "upside down when aligned"),
        ("alignment", lambda matrix: matrix * 2, "eyes off the middle of the aligned frame"),
        ("face_box", lambda box: box * 5, "another size than the face box"),
    ],
)
def test_landmarks_that_no_face_has_are_named(damage, look, column, change, rule) -> None:
    bad = damage.ids()[3]
    damage.values(column, change, [bad])
    run = look("landmarks", "landmarks_plausible")
    assert not run.finding.passed
    assert run.finding.severity is Severity.ERROR, "one of eight is more than two in a hundred"
    assert list(run.finding.metadata["rows"]) == [bad]
    assert rule in run.finding.metadata["rows"][bad]
    assert bad in run.finding.message
    assert rule in run.finding.message
    rare = CheckLimits(implausible=ShareLimit(warn=0.0, error=0.2))
    assert look("landmarks", "landmarks_plausible", limits=rare).finding.severity is Severity.WARN


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda points: points.reshape(10, 2)[[*range(5, 10), *range(5)]], "not between the corners"),
        (shifted(np.array([0.0, 25.0])), "above or below its eye"),
        (lambda points: np.repeat(points.reshape(10, 2)[[0, 5]], 5, axis=0), "impossible size"),
    ],
    ids=["exchanged", "moved", "without size"],
)
def test_irises_that_no_eye_has_are_named(damage, look, change, rule) -> None:
    bad = damage.ids()[2]
    damage.values("iris_10", change, [bad])
    run = look("iris", "iris_plausible")
    assert list(run.finding.metadata["rows"]) == [bad]
    assert rule in run.finding.message


def test_no_more_than_ten_rows_are_listed(damage, look) -> None:
    every = damage.ids("shard-00000") + damage.ids()
    damage.rewrite("faces", lambda rows: rows.set_column(2, "shard", pa.array([SHARD] * rows.num_rows)))
    damage.values("landmarks_68", shifted(FAR), every)
    run = look("landmarks", "landmarks_plausible")
    assert run.finding.metadata["implausible"] == 16
    assert len(run.finding.metadata["rows"]) == 10
    assert "and 6 more" in run.finding.message
