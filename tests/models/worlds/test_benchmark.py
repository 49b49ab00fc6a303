"""The benchmark's pairs, their hash and their folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.worlds import render
from models.worlds.benchmark import BENCHMARK_SEED, benchmark_hash, benchmark_pairs
from models.worlds.benchmark_folder import MANIFEST, read_benchmark, write_benchmark
from models.worlds.sampling import sample_identities


def test_pairs_are_close_ups_of_people_whom_training_never_sees() -> None:
    pairs, fewer = benchmark_pairs(), benchmark_pairs(20)
    assert len(pairs) == 200
    np.testing.assert_array_equal(pairs.sources.values[:20], fewer.sources.values)
    np.testing.assert_array_equal(pairs.target_attributes.values[:20], fewer.target_attributes.values)
    for photos in (pairs.source_attributes, pairs.target_attributes):
        assert set(photos.column("crop")) == {0}
    people = np.concatenate([pairs.sources.values, pairs.targets.values])
    assert len(np.unique(people, axis=0)) == 400
    for seed in (0, 1, 11, 1_000_003):
        trained = {row.tobytes() for row in sample_identities(seed, 2000).values}
        assert not trained & {row.tobytes() for row in people}


def test_the_hash_covers_parameters_and_pixels() -> None:
    pairs = benchmark_pairs(2)
    known = benchmark_hash(pairs)
    assert len(known) == 64
    assert known == benchmark_hash(benchmark_pairs(2))
    other_seed = benchmark_hash(benchmark_pairs(2, BENCHMARK_SEED + 2))
    smile = pairs.target_attributes.column("smile") * 0.5
    changed = replace(pairs, target_attributes=pairs.target_attributes.replace(smile=smile))
    assert len({known, benchmark_hash(benchmark_pairs(1)), other_seed, benchmark_hash(changed)}) == 4


def test_a_folder_is_completed_and_never_rewritten(tmp_path: Path) -> None:
    manifest = write_benchmark(tmp_path, pairs=2, size=32)
    assert manifest.hash == benchmark_hash(benchmark_pairs(2))
    assert read_benchmark(tmp_path) == manifest
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {f"{kind}/000{pair}.png" for kind in ("sources", "targets") for pair in (1, 2)}
    assert names == {MANIFEST, "README.md", "pairs.csv"} | pictures, "no truths unless asked"
    assert manifest.digits in (tmp_path / "README.md").read_text()
    (tmp_path / "sources/0001.png").unlink()
    kept = (tmp_path / "targets/0002.png").stat().st_mtime_ns
    write_benchmark(tmp_path, pairs=2, size=32, with_truth=True)
    assert (tmp_path / "targets/0002.png").stat().st_mtime_ns == kept
    pairs = benchmark_pairs(2)
    truth = render(pairs.sources, pairs.target_attributes, 32)
    for row, name in enumerate(manifest.names):
        for folder, expected in (
            ("sources", pairs.source_photos(32)[row]),
            ("targets", pairs.target_photos(32)[row]),
            ("truth", truth.images_NHWC[row]),
            ("masks", truth.visible_face_NHW[row] * np.uint8(255)),
            ("parsing", truth.parsing_NHW[row]),
        ):
            written = np.asarray(Image.open(tmp_path / folder / f"{name}.png"))
            np.testing.assert_array_equal(written, expected, err_msg=folder)
        np.testing.assert_array_equal(np.load(tmp_path / f"depth/{name}.npy"), truth.depth_NHW[row])
        points = json.loads((tmp_path / "landmarks.json").read_text())[name]
        np.testing.assert_allclose(points["landmarks_68"], truth.landmarks_68_N682[row])
    with pytest.raises(ValueError, match="another benchmark"):
        write_benchmark(tmp_path, pairs=3, size=32)


def test_a_manifest_that_does_not_match_this_program_is_refused(tmp_path: Path) -> None:
    manifest = write_benchmark(tmp_path, pairs=1, size=32)
    assert len(manifest.checked_pairs()) == 1
    with pytest.raises(ValueError, match="rounds pixels otherwise"):
        manifest.model_copy(update={"seed": 5}).checked_pairs()
    with pytest.raises(ValueError, match="score with the Orchard that wrote it"):
        manifest.model_copy(update={"world_version": "1"}).checked_pairs()
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        read_benchmark(tmp_path)
    with pytest.raises(ValueError, match="orchard world sample"):
        read_benchmark(tmp_path / "sources")
