"""DiffFace's row of the leaderboard: the very swaps of its stage, once for all training seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benches.leaderboard.collect import place
from benches.leaderboard.guided import KEY, guided, made_by, taken_from_another_seed
from benches.leaderboard.scoring import Bench
from benches.leaderboard.values import Measured, is_kept, keep, seed_folder
from pipeline.profiles import profile
from resources.photos.decoding import DecodeLimits, decode_upright


@pytest.fixture(scope="module")
def bench(smoke_lake: Any) -> Bench:
    """The smoke lake's evaluation pairs in place of the benchmark's."""
    pairs = smoke_lake.lake.diffface_swaps.snapshot().scan(["pair_id"])["pair_id"].to_pylist()
    return Bench(smoke_lake.lake, profile("smoke").parts(), pairs, lambda text: None)


def test_pictures_are_those_of_the_stage_and_are_measured(bench: Bench, smoke_lake: Any) -> None:
    config = profile("smoke").parts().diffface
    assert config is not None
    pictures, places = guided(bench, config)
    assert places == list(range(len(bench.pairs)))
    stored = smoke_lake.lake.diffface_swaps.snapshot().find(bench.pair_ids, ["swap"])
    for picture, pair in zip(pictures, bench.pair_ids, strict=True):
        theirs = decode_upright(stored[pair]["swap"], DecodeLimits(min_side=1)).astype(int)
        assert np.abs(picture - theirs).max() <= 1  # other pairs were in the batch
    values = bench.score(pictures, places)
    assert np.isfinite(values["rank_1_of_20"]).all()
    assert (values["face_psnr"] != bench.score(bench.copies())["face_psnr"]).all()


def test_a_row_is_taken_from_another_seed_as_long_as_it_was_made_by_the_same(tmp_path: Path) -> None:
    config = profile("smoke").parts().diffface
    assert config is not None
    made = made_by("base, 2 pairs", config)
    other = config.model_copy(update={"settings": config.settings.model_copy(update={"loss_weight": 1.0})})
    assert made != made_by("base, 2 pairs", other)
    folders = [seed_folder(tmp_path, seed) / "values" for seed in (0, 1)]
    values = {"rank_1_of_20": np.array([1.0, 0.0])}
    keep(folders[0], Measured(KEY, ("a", "b"), values, np.empty((0, 1, 1, 3), np.uint8)), made)
    folders[1].mkdir(parents=True)
    assert not taken_from_another_seed(folders[1], made_by("base, 2 pairs", other))
    assert not is_kept(folders[1], KEY, made)
    assert taken_from_another_seed(folders[1], made)
    assert is_kept(folders[1], KEY, made)


def test_it_stands_among_what_nothing_is_trained_for() -> None:
    assert place(KEY)[0] == 0
