"""The stage: every method on common pairs, honest reasons for what is absent, stale when a file arrives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import pytest

from assets.planner import Planner
from assets.protocol_pairs import common_swaps
from assets.stage import ArtifactStage, StageGraph
from assets.swap_methods import methods_of
from pipeline.profiles import profile
from resources.lake.lake import Lake
from resources.weights.resolve import resolve

STAGE = "evaluation_protocol"
HERE = {"id_similarity_world", "id_similarity_dlib", "pose", "expression", "gaze"}
HERE |= {"top_1_world", "top_1_dlib"}
ABSENT = {"lpips", "fid_inception", "clip_frechet", "clip_frechet_l14"}
CERTAIN = {"top_5_world", "top_5_dlib"}


@pytest.fixture(scope="module")
def graph() -> StageGraph:
    return profile("smoke").graph()


def scores(lake: Lake) -> dict[tuple[str, str], dict[str, Any]]:
    artifact = lake.current_artifact(STAGE)
    assert artifact is not None
    return {(row["method"], row["metric"]): row for row in artifact.metadata["scores"]}


def test_every_method_is_measured_with_what_is_here(smoke_lake) -> None:
    found = scores(smoke_lake.lake)
    methods = {"copy_target", *methods_of(diffface=True)}
    assert set(found) == {(method, metric) for method in methods for metric in HERE | ABSENT | CERTAIN}
    for (method, metric), row in found.items():
        if metric in ABSENT | CERTAIN:
            assert row["value"] is None
            why = "weight " if metric in ABSENT else "the sources are 2 people"
            assert row["not_measured"].startswith(f"not measured: {why}")
        elif row["not_measured"]:
            # six training steps: the swaps of the smoke profile need not look like faces
            assert method != "copy_target"
            assert "no face was found" in row["not_measured"]
        else:
            assert row["low"] <= row["value"] <= row["high"]
            assert row["weights"]
    assert found["copy_target", "id_similarity_world"]["used_in_training"] is True
    assert found["copy_target", "id_similarity_dlib"]["used_in_training"] is False
    assert found["copy_target", "id_similarity_dlib"]["count"] == 4


def test_a_copy_keeps_the_attributes_and_not_the_identity(smoke_lake) -> None:
    found = scores(smoke_lake.lake)
    assert found["copy_target", "pose"]["value"] < 10
    assert found["copy_target", "gaze"]["value"] < 0.2
    assert found["copy_target", "top_1_dlib"]["value"] <= 0.5


def test_pairs_that_one_method_failed_are_left_out(smoke_lake, tmp_path: Path) -> None:
    shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    whole, none = common_swaps(lake, None, diffface=True)
    assert (len(whole), none) == (4, 0)
    assert all(set(made) == set(methods_of(diffface=True)) for made in whole.values())
    first = next(iter(whole))
    lance.dataset(lake.swaps.uri).delete(f"pair_id = '{first}__teacher'")
    fewer, left_out = common_swaps(lake, None, diffface=True)
    assert left_out == 1
    assert list(fewer) == list(whole)[1:]
    lance.dataset(lake.diffface_swaps.uri).delete(f"pair_id = '{list(whole)[1]}'")
    assert list(common_swaps(lake, None, diffface=True)[0]) == list(whole)[2:]
    assert list(common_swaps(lake, None, diffface=False)[0]) == list(whole)[1:]


def test_a_file_that_arrives_makes_it_stale(
    smoke_lake, graph: StageGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Planner(smoke_lake.lake, graph).artifact(STAGE).stale
    stage = graph[STAGE]
    assert isinstance(stage, ArtifactStage)
    assert stage.extra_content is not None
    before = stage.extra_content(smoke_lake.lake)

    def pulled(role: str) -> Any:
        return replace(resolve("dlib_face_recognition"), role=role) if role == "vgg16" else resolve(role)

    monkeypatch.setattr("assets.evaluation_protocol.resolve", pulled)
    assert stage.extra_content(smoke_lake.lake) != before
