"""The evaluation: exact answers of a world's pairs, the rows that are no models, and what is said without."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from assets.evaluation import at_rows, swapped_pairs
from assets.evaluation_pairs import EvaluationPair, evaluation_pairs, pairs_truth, why_not_exact
from assets.evaluation_views import evaluation_markdown, evaluation_preview
from assets.swap_methods import methods_of
from models.metrics.exact_scores import exact_scores
from models.metrics.exact_truth import ExactTruth
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright

SIZE = 32


@pytest.fixture(scope="module")
def figures(smoke_lake: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the current evaluation by method and metric."""
    digest = smoke_lake.lake.current_artifact("evaluation").digest.hex()
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in smoke_lake.lake.evaluations.snapshot().dataset.to_table().to_pylist():
        if row["evaluation"] == digest:
            found[row["method"]][row["metric"]] = row
    return found


@pytest.fixture(scope="module")
def pairs(smoke_lake: Any) -> list[EvaluationPair]:
    return evaluation_pairs(smoke_lake.lake, SIZE, swapped_pairs(smoke_lake.lake.swaps))


@pytest.fixture(scope="module")
def bench(pairs: list[EvaluationPair]) -> ExactTruth:
    return pairs_truth(pairs, SIZE)


def test_every_method_is_measured_and_the_two_references_stand_where_they_must(
    figures: dict[str, dict[str, dict[str, Any]]],
) -> None:
    assert {"teacher", "teacher_inversion", "student", "diffface"} < set(figures)
    copy, ceiling = figures["copy_target"], figures["codec_ceiling"]
    assert (copy["leak"]["mean"], copy["rank_1_of_20"]["mean"], copy["swap_progress"]["mean"]) == (1, 0, 0)
    assert (ceiling["leak"]["mean"], ceiling["rank_1_of_20"]["mean"]) == (0, 1)
    for name in ("teacher", "teacher_inversion", "student"):
        method = figures[name]
        assert method["face_psnr"]["mean"] < ceiling["face_psnr"]["mean"]
        assert {"light_error", "lip_error", "background_error", "id_distance_dlib"} < set(method)
        assert all(row["low"] <= row["mean"] <= row["high"] for row in method.values())
        assert method["face_psnr"]["count"] == 4


def test_a_recorded_mean_is_that_of_the_metric_on_the_stored_pictures(
    figures: dict[str, dict[str, dict[str, Any]]], pairs: list[EvaluationPair], bench: ExactTruth
) -> None:
    target = np.stack([pair.target for pair in pairs])
    scores = exact_scores(target, bench)
    for metric in ("psnr", "face_psnr", "background_error", "lip_error"):
        assert figures["copy_target"][metric]["mean"] == pytest.approx(np.nanmean(scores[metric]))
    assert exact_scores(target[[2]], at_rows(bench, [2]))["psnr"] == pytest.approx(scores["psnr"][[2]])
    assert (bench.truth_NHWC == np.stack([pair.truth for pair in pairs])).all()


def test_people_see_a_table_and_pictures(smoke_lake: Any) -> None:
    artifact = smoke_lake.lake.current_artifact("evaluation")
    table = evaluation_markdown(smoke_lake.lake, artifact)
    assert table is not None
    assert "| leak | 1 (1 to 1) | 0 (0 to 0) |" in table
    preview = evaluation_preview(smoke_lake.lake, artifact)
    assert preview is not None
    assert decode_upright(preview).shape == (3 * 96, (1 + len(methods_of(diffface=True))) * 96, 3)


def test_without_parameters_it_is_said_what_cannot_be_rendered(pairs: list[EvaluationPair]) -> None:
    assert why_not_exact(pairs) == ""
    bare = [dataclasses.replace(pairs[0], world=None), *pairs[1:]]
    assert why_not_exact(bare).startswith("1 of 4 truths are pictures without a world.json")
    with pytest.raises(ValueError, match="pairs without parameters"):
        pairs_truth(bare, SIZE)
    assert pairs[0].world is not None
    old = dataclasses.replace(pairs[0], world=pairs[0].world.model_copy(update={"world_version": "0"}))
    assert "rendered by version 0 of the world" in why_not_exact([old])


def test_parameters_of_another_picture_are_refused(pairs: list[EvaluationPair]) -> None:
    known = pairs[0].world
    assert known is not None
    wrong = known.model_copy(update={"source_identity": known.target_identity})
    with pytest.raises(LakeError, match=r"is not the picture that its world\.json describes"):
        pairs_truth([dataclasses.replace(pairs[0], world=wrong)], SIZE)
