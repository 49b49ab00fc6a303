"""The benchmark as an outsider takes it: a program that knows nothing of Orchard, scored by `orchard`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from models.worlds.benchmark_folder import read_benchmark
from pipeline.benchmark_results import Results, ResultsError, read_results, resized
from pipeline.benchmark_scores import CEILING, COPY_TARGET, score_results
from pipeline.cli import app

PAIRS = 3

OUTSIDER = '''
"""Gives the target's face the source's mean colour, in an oval; a swap of sorts."""
import csv, pathlib, sys
import numpy as np
from PIL import Image

root = pathlib.Path(sys.argv[1])
(root / "results").mkdir()
for row in csv.DictReader(open(root / "pairs.csv")):
    source, target = (np.asarray(Image.open(root / row[kind]), float) for kind in ("source", "target"))
    down, across = np.mgrid[-1 : 1 : len(target) * 1j, -1 : 1 : len(target) * 1j]
    oval = down**2 + (across * 1.4) ** 2 < 0.4
    target[oval] += source[oval].mean(axis=0) - target[oval].mean(axis=0)
    swapped = Image.fromarray(target.clip(0, 255).astype(np.uint8))
    swapped.resize((48, 48)).save(root / "results" / (row["pair"] + ".jpg"), quality=95)
assert not any(name.split(".")[0] in ("models", "pipeline", "assets", "resources") for name in sys.modules)
'''


def orchard(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small benchmark folder with the outsider's results in it."""
    folder = tmp_path_factory.mktemp("outside")
    root = folder / "benchmark"
    done = orchard("world", "sample", root, "--pairs", str(PAIRS), "--size", "64", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == PAIRS
    program = folder / "swap.py"
    program.write_text(OUTSIDER)
    # -I: neither the working directory nor PYTHONPATH leads to Orchard.
    subprocess.run([sys.executable, "-I", program, root], check=True, cwd=folder)
    return root


def test_results_of_a_program_that_knows_nothing_of_orchard_are_scored(
    benchmark: Path, tmp_path: Path
) -> None:
    written = tmp_path / "scores.json"
    done = orchard("bench", "score", benchmark, "--no-pose", "--json", written)
    assert done.exit_code == 0, done.output
    told = json.loads(written.read_text())
    digits = json.loads((benchmark / "benchmark.json").read_text())["hash"][:12]
    assert digits in done.stdout
    assert f"{PAIRS} of 48 px" in done.stdout
    assert told["compared_at"] == 64
    means = {
        method: {name: interval["mean"] for name, interval in metrics.items()}
        for method, metrics in told["scores"].items()
    }
    assert list(means) == ["results", "copy_target", "truth_at_result_size"]
    ours, copied, ceiling = means.values()
    assert (copied["leak"], copied["rank_1_of_20"]) == (1, 0)
    assert (ceiling["leak"], ceiling["rank_1_of_20"]) == (0, 1)
    assert ours["face_psnr"] < ceiling["face_psnr"] < 60, "48 px cannot hold all of 64"
    assert ours["lip_error"] != copied["lip_error"]
    assert ours["background_error"] > ceiling["background_error"] > 0
    for name, interval in told["scores"]["results"].items():
        values = [value for value in told["per_pair"]["results"][name] if value is not None]
        assert interval["rows"] == len(values)
        if values:
            assert interval["mean"] == pytest.approx(np.mean(values))
            assert interval["low"] <= interval["mean"] <= interval["high"]
    assert "pose_error" not in told["scores"]["results"]


def test_at_another_size_the_truth_still_scores_the_ceiling(benchmark: Path) -> None:
    manifest = read_benchmark(benchmark)
    pairs, sides = manifest.checked_pairs(), (64,) * PAIRS
    for pictures, row in ((pairs.truths(64), CEILING), (pairs.target_photos(64), COPY_TARGET)):
        handed_in = Results(np.stack([resized(picture, 32) for picture in pictures]), sides, ())
        told = score_results(manifest, handed_in, 32, face_landmarker=None, report=lambda text: None)
        assert told["scores"]["results"] == told["scores"][row]
        assert told["scores"][CEILING]["face_psnr"]["mean"] == 100


def test_missing_and_broken_results_are_all_named_and_nothing_is_scored(
    benchmark: Path, tmp_path: Path
) -> None:
    (tmp_path / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.new("RGB", (64, 48)).save(tmp_path / "0002.png")
    written = tmp_path / "scores.json"
    done = orchard("bench", "score", benchmark, "--results", tmp_path, "--no-pose", "--json", written)
    assert done.exit_code == 1
    assert "3 pairs have no usable result" in done.stderr
    for told in ("0001.png: undecodable", "0002.png: 64x48 is not square", "0003: missing"):
        assert told in done.stderr
    assert not written.exists()
    assert orchard("bench", "score", tmp_path).exit_code == 2, "no benchmark folder"


def test_any_size_and_format_is_brought_to_the_size_of_comparison(tmp_path: Path) -> None:
    grey = np.full((32, 32, 3), 90, np.uint8)
    Image.fromarray(grey).save(tmp_path / "0001.webp", lossless=True)
    Image.fromarray(grey.repeat(4, 0).repeat(4, 1)).convert("RGBA").save(tmp_path / "0002.PNG")
    Image.fromarray(grey).save(tmp_path / "9999.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_results(tmp_path, ["0001", "0002"], 64)
    assert found.sides_N == (32, 128)
    assert found.describe() == "1 of 32 px, 1 of 128 px"
    assert found.unused == ("9999.png",)
    np.testing.assert_array_equal(found.pictures_NHWC, np.full((2, 64, 64, 3), 90))
    Image.fromarray(grey).save(tmp_path / "0001.jpg")
    with pytest.raises(ResultsError, match=r"0001: several pictures: 0001\.jpg, 0001\.webp"):
        read_results(tmp_path, ["0001"], 64)
