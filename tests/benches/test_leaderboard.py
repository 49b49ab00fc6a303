"""The leaderboard: figures of known values, answers that follow, a page of the file, a check that bites.

Values are drawn here; that the stages make swaps and the metrics measure them is tested where they live.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from assets.frontier_config import CONDITIONINGS
from assets.frontier_summary import ATTRIBUTES
from benches.leaderboard.__main__ import check, main
from benches.leaderboard.check import regressions, tolerance
from benches.leaderboard.collect import collect
from benches.leaderboard.plan import ENTRANTS, Plan, bench_parts, equal_steps, scales_of
from benches.leaderboard.report import PAGE, write_report
from benches.leaderboard.results import (
    OVERALL,
    RESULT,
    Comparison,
    Figure,
    Leaderboard,
    Row,
    figure,
    read_result,
    write_result,
)
from benches.leaderboard.values import Key, Measured, SeedRecord, keep, seed_folder

PLAN = Plan(pairs=6, scales=(1.0, 4.0), inversion_scales=(4.0,), pictures=2)
SCALES = (1.0, 2.0, 4.0)
PAIRS = 60
IDS = tuple(f"s{row}__t{row}" for row in range(PAIRS))
WORSE = {"student": 0.6, "inpainting/teacher": -0.4}
"""Added to the attribute errors of some methods; the baseline teacher's are about 4."""


def values(label: str, scale: float | None, seed: int) -> dict[str, NDArray[np.float64]]:
    """Identity rises with the scale from 0.3 to 0.8, errors from 4 to 6; pairs scatter alike everywhere."""
    pairs, rng = np.random.default_rng(0), np.random.default_rng([seed, *label.encode()])
    share = 0.5 if scale is None else (scale - 1.0) / 3.0
    reach = share - 3.0 if label == "base" else share
    rank = (pairs.random(PAIRS) < 0.3 + 0.5 * share).astype(float)
    scatter = pairs.normal(0, 0.5, PAIRS) + rng.normal(0, 0.02, PAIRS)
    added = next((extra for name, extra in WORSE.items() if label.endswith(name)), 0.0)
    found = dict.fromkeys(ATTRIBUTES, 4.0 + 2.0 * share + scatter + added)
    found["glasses_error"] = np.where(np.arange(PAIRS) % 4 == 0, found["glasses_error"], np.nan)
    likeness = 0.4 + 0.3 * reach + 0.05 * pairs.normal(size=PAIRS)
    return {
        "face_psnr": 20.0 - scatter,
        "psnr": 22.0 - scatter,
        "rank_1_of_20": rank,
        "leak": 1.0 - rank,
        **found,
        "id_similarity_world": likeness,
        "id_leak_world": 1.0 - rank,
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished seeds of drawn values."""
    folder = tmp_path_factory.mktemp("work")
    pictures = np.full((2, 8, 8, 3), 128, np.uint8)
    for seed in (0, 1):
        own = seed_folder(folder, seed)
        keys = [Key(name, name, None, None) for name in ("copy_target", "codec_ceiling", "mesh_warp")]
        keys += [
            Key(item.name, item.method, item.conditioning, scale) for item in ENTRANTS for scale in SCALES
        ]
        for key in keys:
            measured = Measured(key, IDS, values(key.label, key.scale, seed), pictures)
            keep(own / "values", measured, "drawn")
        np.savez(own / "grid.npz", source=pictures, target=pictures, truth=pictures)
        record = SeedRecord(
            seed=seed, plan=PLAN, base_sha256="b" * 64, base_file_sha256="f" * 64, embedder_sha256="e" * 64,
            recommended_scale=4.0, image_size=32, left_out=(), steps={"baseline/teacher": 3}, checkpoints={},
        )  # fmt: skip
        (own / "seed.json").write_text(record.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def root(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with result file, shipped rows and page."""
    folder = tmp_path_factory.mktemp("root")
    assert main(["--root", str(folder), "collect", "--work", str(work)]) == 0
    board = read_result(folder / RESULT)
    shipped = [row for row in board.rows if row.key.label in ("base", "copy_target", "baseline/student")]
    write_result(folder / RESULT, board.model_copy(update={"shipped": tuple(shipped)}))
    assert main(["--root", str(folder), "report"]) == 0
    return folder


@pytest.fixture
def board(root: Path) -> Leaderboard:
    return read_result(root / RESULT)


def same(board: Leaderboard, *_: Path) -> tuple[tuple[Row, ...], dict[str, str]]:
    """Scores that are those of the result file."""
    return board.shipped, board.shipped_sha256


def answer(board: Leaderboard, key: str) -> Comparison:
    return next(item for item in board.comparisons if item.key == key and item.axis == "rank_1_of_20")


def test_rows_are_means_over_seeds_and_pairs_in_the_order_of_the_plan(board: Leaderboard) -> None:
    assert [row.key.label for row in board.rows[:4]] == ["copy_target", "codec_ceiling", "mesh_warp", "base"]
    row = board.row("baseline/student", 4.0)
    assert row is not None
    both = [values("baseline/student", 4.0, seed)["light_error"] for seed in (0, 1)]
    light = row.metrics["light_error"]
    assert light.mean == pytest.approx(np.mean(both), abs=1e-4)
    assert light.per_seed == pytest.approx([np.mean(part) for part in both], abs=1e-4)
    assert row.metrics["glasses_error"].count == 2 * PAIRS / 4
    assert row.seeds == (0, 1)
    assert next(row for row in board.rows if row.name == "mesh_warp").seeds == ()
    unit = board.row("baseline/teacher", 4.0)
    assert unit is not None
    assert unit.metrics[OVERALL].mean == pytest.approx(1.0, abs=0.01)


def test_seeds_that_differ_widen_the_interval() -> None:
    pairs = np.random.default_rng(0).normal(size=100)
    together, apart = figure(np.stack([pairs, pairs])), figure(np.stack([pairs - 1, pairs + 1]))
    widths = [
        item.high - item.low for item in (together, apart) if item.high is not None and item.low is not None
    ]
    assert widths[1] > 3 * widths[0]
    assert together.mean == apart.mean
    assert figure(np.full((1, 3), np.nan)) == Figure(mean=None, low=None, high=None, count=0)


def test_verdicts_follow_from_the_values(board: Leaderboard) -> None:
    assert answer(board, "student").verdict == "no"
    assert answer(board, "student").differences[0].difference == pytest.approx(0.6 / 6.0, abs=0.01)
    assert answer(board, "deblurring").verdict == "no"
    assert answer(board, "source_shape").verdict == "not shown"
    assert {f"inversion_{name}" for name in CONDITIONINGS} < {item.key for item in board.comparisons}
    for item in board.comparisons:
        deciding = item.differences[0]
        assert deciding.metric == OVERALL
        assert deciding.low is not None
        assert deciding.high is not None
        if item.level is not None:
            expected = "yes" if deciding.high < 0 else "no" if deciding.low > 0 else "not shown"
            assert item.verdict == expected


def test_methods_without_common_identity_are_compared_where_they_are_nearest(board: Leaderboard) -> None:
    found = next(
        item for item in board.comparisons if item.key == "adapters" and item.axis == "id_similarity_world"
    )
    assert found.level is None
    assert (found.scale, found.reference_scale) == (1.0, 4.0)
    assert found.verdict == "yes"  # more identity and lower errors


def test_seeds_of_other_plans_and_other_pairs_are_refused(work: Path) -> None:
    records = {
        seed: SeedRecord.model_validate_json((seed_folder(work, seed) / "seed.json").read_text())
        for seed in (0, 1)
    }
    changed = records | {1: records[1].model_copy(update={"plan": Plan(pairs=7)})}
    with pytest.raises(ValueError, match="differ in their plan"):
        collect(work, changed, None)
    with pytest.raises(ValueError, match="no seed is finished"):
        collect(work, {}, None)


def test_the_page_says_what_the_file_says(root: Path, board: Leaderboard) -> None:
    text = (root / PAGE).read_text()
    assert board.benchmark.hash[:12] in text
    item = answer(board, "student")
    assert f"**{item.verdict}**; {item.because}." in text
    student = board.row("baseline/student", 4.0)
    assert student is not None
    rank = student.metrics["rank_1_of_20"]
    assert f"{rank.mean:.2f} [{rank.low:.2f}, {rank.high:.2f}]" in text
    assert all(row.command in text for row in board.rows)
    for name in ("leaderboard_identity.svg", "leaderboard_leak.svg"):
        drawn = ElementTree.parse(root / RESULT.parent / name).getroot()
        assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) > 3 * len(ENTRANTS)
    assert (root / RESULT.parent / "leaderboard_grid.jpg").is_file()


def test_the_check_passes_where_nothing_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root, same) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("metric", "step", "fails"),
    [
        ("light_error", 1.0, True),
        ("light_error", -1.0, False),
        ("rank_1_of_20", -1.0, True),
        ("psnr", 1.0, False),
    ],
)
def test_the_check_fails_on_a_regression_alone(
    root: Path, capsys: pytest.CaptureFixture[str], metric: str, step: float, fails: bool
) -> None:
    def moved(board: Leaderboard, *_: Path) -> tuple[tuple[Row, ...], dict[str, str]]:
        row = board.shipped[-1]
        before = row.metrics[metric]
        assert before.mean is not None
        after = before.model_copy(update={"mean": before.mean + step * 1.01 * tolerance(before)})
        changed = row.model_copy(update={"metrics": {**row.metrics, metric: after}})
        return (*board.shipped[:-1], changed), board.shipped_sha256

    assert check(root, moved) == (1 if fails else 0)
    told = capsys.readouterr().out
    assert (f"baseline/student, {metric}: " in told) == fails
    assert ("tolerance" in told) == fails


def test_the_check_fails_without_a_row_with_other_weights_an_old_page_or_another_benchmark(
    root: Path, tmp_path: Path, board: Leaderboard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regressions(board.shipped, board.shipped[1:])
    copy = tmp_path / "root"

    def told(change: dict[str, Any], scored: Callable[..., Any] = same, *, rewritten: bool = True) -> str:
        changed = board.model_copy(update=change)
        write_result(copy / RESULT, changed)
        if rewritten:
            write_report(changed, copy)
        assert check(copy, scored) == 1
        return capsys.readouterr().out

    def other_weights(board: Leaderboard, *_: Path) -> Any:
        return board.shipped, {"student": "0" * 64}

    write_report(board, copy)
    assert str(PAGE) in told({"date": "1999-12-31"}, rewritten=False)
    assert "the repository's adapters" in told({}, other_weights)
    assert "no rows of shipped" in told({"shipped": ()})
    other = board.benchmark.model_copy(update={"hash": "0" * 64})
    assert "run the leaderboard anew" in told({"benchmark": other})


def test_scores_of_another_program_are_added_once_and_for_this_benchmark_alone(
    root: Path, tmp_path: Path, board: Leaderboard
) -> None:
    copy = tmp_path / "root"
    write_result(copy / RESULT, board)
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "rows": 6}
    unknown = {"mean": None, "low": None, "high": None, "rows": 0}
    told = {
        "benchmark": {"hash": board.benchmark.hash, "pairs": 6},
        "compared_at": 256,
        "scores": {"results": {"leak": interval, "pose_error": unknown}, "copy_target": {"leak": interval}},
    }
    scores = tmp_path / "score.json"
    for _ in range(2):
        scores.write_text(json.dumps(told))
        assert main(["--root", str(copy), "add", "theirs", str(scores)]) == 0
    added = read_result(copy / RESULT).added
    assert [row.name for row in added] == ["theirs", "theirs: copy_target"]
    assert added[0].metrics["pose_error"].mean is None
    told["benchmark"]["hash"] = "0" * 64
    scores.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="is of benchmark 000000000000"):
        main(["--root", str(copy), "add", "theirs", str(scores)])


def test_the_control_takes_the_compute_of_teacher_triplets_and_student() -> None:
    plan = Plan(teacher_steps=24, student_steps=60, triplets=32)
    parts = bench_parts(plan, seed=3)
    recipe, control = parts.recipe("baseline"), parts.recipe("teacher_long")
    steps = recipe.sampling.steps
    passes = steps + steps * (2 if recipe.sampling.id_guidance_scale != 1 else 1)
    assert recipe.sampling.passes == passes
    assert equal_steps(recipe) == 84 + int(np.ceil(32 * passes / (3 * 32)))
    assert control.teacher.steps == equal_steps(recipe)
    assert parts.recipe("supervised").teacher.steps == 84
    assert control.teacher.identity_loss_start / control.teacher.steps == pytest.approx(5 / 6, abs=0.02)
    other = bench_parts(plan, seed=4).recipe("baseline")
    seeds = {recipe.teacher.seed, recipe.student.seed, other.teacher.seed, other.student.seed}
    assert len(seeds) == 4
    inversion = next(item for item in ENTRANTS if item.conditioning)
    assert scales_of(PLAN, inversion, 3.0) == (3.0, 4.0)
