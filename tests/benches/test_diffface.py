"""The bench of DiffFace, in miniature: variants, intervals, and a page that says what the file says."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benches.diffface import main, measure
from benches.diffface_page import (
    COMPAT,
    DEFAULT,
    FRONTIERS,
    LOSS_WEIGHT,
    PAGE,
    RESULT,
    THRESHOLD,
    DiffFaceResult,
    frontiers,
    read_result,
    section,
    section_of,
    with_section,
)
from benches.leaderboard.results import OVERALL
from models.diffface.settings import DiffFaceSettings

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 2
BASE = DiffFaceSettings(
    device="cpu",
    batch_size=2,
    iterations_num=1,
    timestep_respacing="4",
    skip_timesteps=1,
    masking_threshold=1,
    aug_num=1,
)
Measured = tuple[DiffFaceResult, dict[str, NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def measured() -> Measured:
    torch.set_num_threads(1)
    return measure(PAIRS, BASE, thresholds=(0, 2), loss_weights=(0.0,))


def test_every_variant_is_measured_with_an_interval(measured: Measured) -> None:
    result, grid = measured
    labels = [row.label for row in result.rows]
    thresholds = [f"{THRESHOLD} {value}" for value in (0, 1, 2)]
    assert labels == [DEFAULT.label, COMPAT.label, *thresholds, f"{LOSS_WEIGHT} 0", f"{LOSS_WEIGHT} 6000"]
    by_label = dict(zip(labels, result.rows, strict=True))
    plain = by_label[DEFAULT.label]
    for same in (f"{THRESHOLD} 1", f"{LOSS_WEIGHT} 6000"):
        assert by_label[same].metrics == plain.metrics  # the default, swapped once
    for row in result.rows:
        assert row.cpu_seconds_per_swap > 0
        figure = row.metrics["face_psnr"]
        assert figure.count == PAIRS
        assert figure.low is not None
        assert figure.mean is not None
        assert figure.high is not None
        assert figure.low <= figure.mean <= figure.high
        assert row.metrics["outside_mask"].mean == 0  # the background is enforced in all of them
    assert plain.metrics[OVERALL].mean == pytest.approx(1.0)  # its own errors are the units
    distances = {label: row.metrics["identity_distance"].mean for label, row in by_label.items()}
    assert len({distances[label] for label in (*labels[:3], labels[4], labels[5])}) == 5
    assert {name: pictures.shape for name, pictures in grid.items()} == dict.fromkeys(
        ("source", "target", "truth", "default", "compat"), (PAIRS, 32, 32, 3)
    )
    assert (grid["default"] != grid["compat"]).any()


def test_changes_are_differences_of_the_same_pairs(measured: Measured) -> None:
    result, _ = measured
    by_label = {row.label: row for row in result.rows}
    compat, threshold = result.changes
    assert (compat.variant, compat.reference) == (COMPAT.label, DEFAULT.label)
    assert (threshold.variant, threshold.reference) == (f"{THRESHOLD} 2", f"{THRESHOLD} 1")
    for change in result.changes:
        own, other = (by_label[name].metrics["face_psnr"].mean for name in (change.variant, change.reference))
        assert own is not None
        assert other is not None
        assert change.differences["face_psnr"].mean == pytest.approx(own - other, abs=1e-4)


def test_the_page_is_what_a_result_gives_and_nothing_else_of_it_changes(
    measured: Measured, tmp_path: Path
) -> None:
    result, _ = measured
    before = (ROOT / PAGE).read_text(encoding="utf-8")
    for path, text in ((PAGE, before), (RESULT, result.model_dump_json())):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert main(["--page", "--root", str(tmp_path)]) == 0
    after = (tmp_path / PAGE).read_text(encoding="utf-8")
    told = section_of(after)
    assert with_section(after, section_of(before)) == before
    for row in result.rows:
        mean = row.metrics["face_psnr"].mean
        assert mean is not None
        assert (f"{mean:.1f} [" if mean >= 9.995 else f"{mean:.2f} [") in told
    assert told.count("pair by pair") == 2
    drawn = (tmp_path / RESULT).with_name(FRONTIERS).read_text(encoding="utf-8")
    texts = {
        element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {THRESHOLD, LOSS_WEIGHT, DEFAULT.label, COMPAT.label} <= texts


def test_the_page_of_this_repository_is_what_its_result_file_gives() -> None:
    path = ROOT / RESULT
    result = read_result(path) if path.is_file() else None
    assert section_of((ROOT / PAGE).read_text(encoding="utf-8")) == section(result)
    if result is not None:
        assert path.with_name(FRONTIERS).read_text(encoding="utf-8") == frontiers(result)


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        with_section("# DiffFace", "figures")
