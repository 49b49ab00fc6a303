"""The annotation bench on real models: its ways agree, its pictures are those of the original's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches import annotate
from benches.annotate import Way, report
from benches.clocks import Clock, clocked


def test_all_four_ways_run_on_the_real_models(tmp_path: Path) -> None:
    """`measure` itself raises when stages run together give other rows than one at a time."""
    facts = annotate.measure(tmp_path, people=2, photos_each=1, size=192)
    assert set(facts["ok_rows"].values()) == {2}
    assert facts["against_the_bar"]["bytes_of_the_original"] > 0
    bytes_alone = facts["one_stage_at_a_time"]["bytes_per_photo"]
    assert facts["together"]["bytes_per_photo"] == pytest.approx(bytes_alone, rel=0.02)
    for way in ("together", "one_stage_at_a_time", "original_shape"):
        assert 0 < facts[way]["in_models"] < facts[way]["seconds"]
    pictures = sorted(
        path.relative_to(tmp_path / "original") for path in (tmp_path / "original").rglob("*.*")
    )
    photo = sorted((tmp_path / "portraits" / "photos").rglob("*.jpg"))[0]
    own = [
        str(path.relative_to(photo.parent.name)) for path in pictures if path.parts[0] == photo.parent.name
    ]
    assert own == [
        f"3dmm/{photo.stem}/{photo.stem}_ldm68.png",
        f"condition_blended_image_blurdownsample8_segGlass_landmark_iris/{photo.stem}.png",
        f"iris/{photo.stem}.png",
        f"iris_vis/{photo.stem}.png",
        f"mask/{photo.stem}.png",
        f"mask_intersection/{photo.stem}.png",
        f"pulid_id/{photo.stem}.npy",
        f"segmap/{photo.stem}.png",
        f"segmap_intersection/{photo.stem}.png",
    ]
    assert (tmp_path / "original" / "score.json").exists()


@pytest.mark.parametrize(("around", "passed"), [(10.0, True), (16.0, False)])
def test_the_bars_are_about_the_time_around_the_models(around: float, passed: bool) -> None:
    def clock(seconds: float) -> Clock:
        found = Clock()
        found.seconds, found.cpu = seconds, seconds / 2
        return found

    def way(extra: float, size: int) -> Way:
        by_stage = {"landmarks": 100.0 + extra}
        return Way(clock(100.0 + extra), clock(100.0), size, by_stage, clock(4.0), clock(1.0))

    facts = report(100, {"landmarks": 100.0}, way(40.0, 10), way(around, 10), way(200.0, 100))
    assert facts["against_the_bar"] == {
        "times_the_original": 200.0 / around,
        "times_the_original_cpu": 200.0 / around,
        "overhead": around / 100,
        "overhead_cpu": around / 100,
        "overhead_without_decoding": (around - 4) / 100,
        "bytes_of_the_original": 0.1,
        "one_at_a_time_over_together": 40.0 / around,
    }
    assert facts["passed"] == passed


def test_a_clock_counts_what_other_code_calls_and_is_taken_off_again() -> None:
    original = annotate.bytes_of
    with clocked((annotate, "bytes_of")) as clock:
        annotate.bytes_of(Path(__file__).parent)
    assert clock.seconds > 0
    assert annotate.bytes_of is original
    broken = Clock()
    with pytest.raises(FileNotFoundError):
        broken.timed(Path.read_bytes)(Path("no such file"))
    assert broken.seconds > 0
