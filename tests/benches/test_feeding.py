"""The feeding bench in miniature: its ways agree on what a row is, its figures add up, its bars can fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from assets.condition import OWN_CONDITION
from assets.feeding import PixelRows
from benches import feeding, png_tree
from benches.feeding_lake import Kept, keep

SIZE = 64


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return keep(tmp_path_factory.mktemp("feeding"), 3, 8, SIZE)


def test_lake_and_tree_hold_the_same_rows(kept: Kept) -> None:
    """Photograph, condition image and embedding are the very same; the tree's pictures say what masks do."""
    drawn = PixelRows(kept.reader, SIZE, OWN_CONDITION.recipe, feeding.DRAWN)
    batch = drawn.read(np.arange(8))
    assert batch.conditions_BSS3 is not None
    assert len(kept.photos) == 8
    for row, everything in ((0, True), (4, True), (7, False)):
        found = png_tree.PngTree(kept.photos, everything)[row]
        assert np.array_equal(found["image"], batch.images_BSS3[row])
        assert np.array_equal(found["condition"], batch.conditions_BSS3[row])
        assert np.array_equal(found["identity"], batch.columns["identity_embedding"][row])
        if everything:
            kinds = {"landmarks", "iris", "segmap", "segmap_intersection", "mask", "mask_intersection"}
            assert kinds <= found.keys()
            assert all(found[kind].shape == (SIZE, SIZE, 3) for kind in kinds)
            hidden = found["mask_intersection"].numpy().any(axis=2)
            photograph = batch.images_BSS3[row].numpy()
            changed = (batch.conditions_BSS3[row].numpy() != photograph).any(axis=2)
            dots = found["landmarks"].numpy().any(axis=2) | found["iris"].numpy().any(axis=2)
            assert not (changed & ~hidden & ~dots).any()


def test_the_bench_runs_and_writes_its_result(tmp_path: Path) -> None:
    sizes = ["--photographs", "3", "--rows", "24", "--size", str(SIZE), "--batch", "4", "--workers", "1"]
    quick = [
        "--rows-per-take",
        "8",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--steps",
        "3",
        "--kinds",
        "threads",
    ]
    result = tmp_path / "feeding.json"
    code = feeding.main([*sizes, *quick, "--kinds", "threads", "--result", str(result)])
    facts = json.loads(result.read_text())
    assert code == (0 if facts["passed"] else 1)
    assert len(facts["rows_per_second"]) == 6
    assert min(facts["rows_per_second"].values()) > 0
    assert len(facts["processor_ms_per_row"]) == 6
    assert min(facts["processor_ms_per_row"].values()) > 0
    assert facts["share_of_time_waiting"].pop("readers") == "threads"
    assert all(0 <= share <= 1 for share in facts["share_of_time_waiting"].values())
    assert set(facts["random_takes_ms_per_row"]) == {
        "sorted, one take",
        "unsorted, one take",
        "a take for each row",
    }
    against = facts["against_the_bar"]
    assert facts["passed"] == all(against[name] >= bar for name, bar in feeding.BAR.items())


def test_waiting_is_counted_where_the_reader_is_slow() -> None:
    import time

    def batches(seconds: float):
        while True:
            time.sleep(seconds)
            yield 4

    assert feeding.starvation(batches(0.03), 0.01, 4, 1) > 0.5
    assert feeding.starvation(batches(0.0), 0.03, 4, 1) < 0.3
    assert feeding.rows_per_second(batches(0.02), 0.1, 1) < 4 / 0.02


def test_the_short_form_is_a_ratio(tmp_path: Path) -> None:
    assert 0 < feeding.quick(tmp_path)()["seconds of a row, the lake over the PNG tree"] < 2
