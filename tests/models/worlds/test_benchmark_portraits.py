"""The benchmark as portraits to ingest: its own people and photographs, and answers that can be rendered."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from models.worlds.benchmark import BENCHMARK_SEED, benchmark_pairs
from models.worlds.benchmark_portraits import pair_names, write_benchmark_portraits
from models.worlds.portraits import PortraitSet, parse_portraits

PAIRS, SIZE = 3, 96


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> PortraitSet:
    return write_benchmark_portraits(tmp_path_factory.mktemp("benchmark"), pairs=PAIRS, size=SIZE)


def test_photographs_and_truths_are_the_benchmarks(portraits: PortraitSet) -> None:
    pairs = benchmark_pairs(PAIRS)
    assert portraits.world.seed == BENCHMARK_SEED
    sources, targets, truths = (
        rendered(SIZE) for rendered in (pairs.source_photos, pairs.target_photos, pairs.truths)
    )
    for row in range(PAIRS):
        for name, picture in zip(pair_names(row), (sources[row], targets[row]), strict=True):
            written = np.asarray(Image.open(portraits.photo_path(name)), int)
            assert np.abs(written - picture).mean() < 3  # JPEG
        truth = np.asarray(Image.open(portraits.truth_path(portraits.swap_pairs[row])))
        assert np.array_equal(truth, truths[row])


def test_the_list_names_them_for_evaluation(portraits: PortraitSet) -> None:
    with (portraits.root / "swap_pairs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["source"], line["target"]) for line in lines] == [pair_names(row) for row in range(PAIRS)]
    assert "use" not in lines[0]
    assert parse_portraits(portraits.root).world == portraits.world


def test_a_second_call_writes_what_is_missing_alone(portraits: PortraitSet) -> None:
    kept, lost = (portraits.photo_path(name) for name in pair_names(1))
    before = lost.read_bytes()
    kept.write_bytes(b"replaced by a user")
    lost.unlink()
    write_benchmark_portraits(portraits.root, pairs=PAIRS, size=SIZE)
    assert kept.read_bytes() == b"replaced by a user"
    assert lost.read_bytes() == before
    with pytest.raises(ValueError, match="describes another world"):
        write_benchmark_portraits(portraits.root, pairs=PAIRS + 1, size=SIZE)


def test_nobody_is_in_two_places(portraits: PortraitSet) -> None:
    people = {name.split("/")[0] for name in portraits.image_ids}
    assert len(people) == len(portraits.image_ids) == 2 * PAIRS
