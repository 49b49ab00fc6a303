"""Policy: who may be trained on and swapped, and what a release pins."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from assets.planner import Planner
from assets.release import ReleaseConfig, release_stage, released_rows
from assets.stage import ArtifactStage, Stage, StageGraph
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.errors import LakeError
from resources.lake.ingest import ingest
from resources.lake.pairs import store_swap_pairs


@pytest.fixture
def graph():
    return profile("smoke").graph()


def people(lake, table: str) -> set[str]:
    rows = lake.table(table).snapshot().scan(["source_image_id", "target_image_id"]).to_pylist()
    return {row[name].split("/")[0] for row in rows for name in ("source_image_id", "target_image_id")}


def test_people_of_the_swap_list_are_never_trained_on(smoke_lake) -> None:
    lake = smoke_lake.lake
    release = lake.current_artifact("release")
    assert release is not None
    trained = {image_id.split("/")[0] for image_id in released_rows(lake, release, "train")[0]}
    assert trained == {"w000000", "w000001", "w000002"}
    assert people(lake, "triplets") <= trained
    assert people(lake, "swaps") == {"w000003", "w000004"}
    assert release.metadata["held_out_people"] == 2


def test_a_release_is_a_tag_that_still_reads_what_was_trained_on(smoke_lake) -> None:
    lake = smoke_lake.lake
    release = lake.current_artifact("release")
    assert release is not None
    assert lake.faces.snapshot(release.metadata["tag"]).version == release.metadata["version"]


def test_checkpoints_know_what_they_come_from(smoke_lake) -> None:
    lake = smoke_lake.lake
    artifacts = {
        name: lake.current_artifact(name) for name in ("release", "teacher", "triplets_release", "student")
    }
    assert all(artifacts.values())
    digests = {name: artifact.digest.hex() for name, artifact in artifacts.items() if artifact}
    student = artifacts["student"]
    assert student is not None
    assert student.metadata["parents"] == {
        name: digests[name] for name in ("release", "teacher", "triplets_release")
    }


def test_photos_without_a_basis_for_it_are_not_trained_on(smoke_lake, tmp_path: Path, graph) -> None:
    own = smoke_lake.copy_to(tmp_path)
    ingest(own.lake, own.folder / "photos", shard_size=8, consent=Consent.ANNOTATION_ONLY)
    with pytest.raises(LakeError, match=r"0 people may be trained on.*consent annotation_only"):
        run_stages(own.lake, graph, ["release"], device="cpu")


def test_withdrawn_consent_of_one_person_makes_release_and_models_stale(
    smoke_lake, tmp_path: Path, graph
) -> None:
    own = smoke_lake.copy_to(tmp_path)
    folder = own.folder / "photos" / "w000002"
    rows = own.lake.faces.snapshot().scan(["image_id", "source"]).to_pylist()
    assert any(row["source"].startswith(str(folder)) for row in rows)
    # the person's photographs move to a folder of their own, which is ingested under another statement
    other = tmp_path / "withdrawn"
    other.mkdir()
    folder.rename(other / "w000002")
    ingest(own.lake, other, layout="identity-folders", consent=Consent.ANNOTATION_ONLY)
    plan = Planner(own.lake, graph)
    assert plan.artifact("release").why == ("input:extra_content",)
    assert plan.artifact("teacher").waiting
    run_stages(own.lake, graph, ["release"], device="cpu")
    release = own.lake.current_artifact("release")
    assert release is not None
    assert release.metadata["excluded"] == {"consent annotation_only": 4}
    assert "w000002" not in people(own.lake, "triplets")
    assert Planner(own.lake, graph).artifact("teacher").stale


def test_without_a_swap_list_pairs_are_drawn_from_the_lake(smoke_lake, tmp_path: Path, graph) -> None:
    own = smoke_lake.copy_to(tmp_path)
    store_swap_pairs(own.lake, [])
    run_stages(own.lake, graph, ["release"], device="cpu")
    release = own.lake.current_artifact("release")
    assert release is not None
    assert release.metadata["swap_pairs"] == 4
    assert release.metadata["held_out_people"] == 0
    assert own.lake.swaps.snapshot().count() == 16


def test_the_same_rows_give_the_same_release(smoke_lake, tmp_path: Path, graph) -> None:
    own = smoke_lake.copy_to(tmp_path)
    before = own.lake.current_artifact("release")
    bumped = dataclasses.replace(
        graph,
        stages=tuple(
            dataclasses.replace(stage, code_version="next")
            if stage.name in ("release", "aesthetics")
            else stage
            for stage in graph.stages
        ),
    )
    done = run_stages(own.lake, bumped, bumped.names, device="cpu")
    after = own.lake.current_artifact("release")
    assert before is not None
    assert after is not None
    assert before.digest == after.digest
    assert done.computed_rows["teacher"] == 0


def test_too_few_people_are_told_and_no_traceback(smoke_lake, tmp_path: Path, graph) -> None:
    own = smoke_lake.copy_to(tmp_path)
    keep = {"w000000/0001_01", "w000001/0001_01"}
    rows = own.lake.faces.snapshot().scan(["image_id"])["image_id"].to_pylist()
    own.lake.faces.delete([image_id for image_id in rows if image_id not in keep])
    store_swap_pairs(own.lake, [])
    with pytest.raises(LakeError, match="in one folder per person"):
        run_stages(own.lake, graph, ["release"], device="cpu")


def test_a_release_that_was_broken_off_is_made_again_even_when_its_inputs_come_back(
    smoke_lake, tmp_path: Path, graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs are in the tables already; the release before is the current one, and would look fresh."""
    own = smoke_lake.copy_to(tmp_path)
    before = own.lake.triplets.snapshot().scan(["pair_id"])["pair_id"].to_pylist()
    fewer = StageGraph(tuple(with_triplets(stage, 2) for stage in graph.stages))

    def die(*arguments: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("assets.release._write_rows", die)
        with pytest.raises(KeyboardInterrupt):
            run_stages(own.lake, fewer, ["release"], device="cpu")
    assert own.lake.triplets.snapshot().count() == 2
    assert Planner(own.lake, graph).artifact("release").why == ("unfinished",)
    run_stages(own.lake, graph, ["release"], device="cpu")
    assert sorted(own.lake.triplets.snapshot().scan(["pair_id"])["pair_id"].to_pylist()) == sorted(before)
    assert not Planner(own.lake, graph).artifact("release").stale


def with_triplets(stage: Stage, count: int) -> Stage:
    """The stage, with another number of pseudo triplets if it is the release."""
    if stage.name != "release" or not isinstance(stage, ArtifactStage):
        return stage
    config = stage.config.model_copy(update={"triplets": count})
    build = release_stage(ReleaseConfig.model_validate(config.model_dump())).build
    return dataclasses.replace(stage, config=config, build=build)
