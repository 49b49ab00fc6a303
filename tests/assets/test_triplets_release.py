"""Which triplets a student learns from: filters by hand-made scores, the seeded draw, the list."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import assets.student
from assets.artifacts import UpstreamPending, run_artifact
from assets.checks.artifact_files import artifact_complete
from assets.stage import ArtifactStage, Input, NoConfig, Row, RowOutcome, RowStage, StageContext, StageGraph
from assets.student import student_stage
from assets.swapping import TARGET
from assets.training import TrainingConfig
from assets.triplet_scores import SCORES
from assets.triplets_release import TripletsReleaseConfig, released_triplets, triplets_release_stage
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.errors import LakeError
from resources.lake.forget import forget
from resources.lake.ingest import ingest
from resources.lake.lake import Artifact, Lake
from resources.lake.pairs import sync_pairs
from resources.lake.schema import TRIPLETS_SCHEMA, Column
from resources.photos.reasons import Reason, RowError

PEOPLE = ("a", "b", "c", "d")
PAIRS = [f"{source}/1__{target}/1" for source, target in itertools.permutations(PEOPLE, 2)]
NAMES = [column.name for column in SCORES]
BROKEN, FACELESS = PAIRS[0], PAIRS[1]


def hand_made(pair_id: str) -> dict[str, float]:
    """Scores of a pair: its place in the list as identity, and numbers derived from it."""
    place = PAIRS.index(pair_id)
    return dict(zip(NAMES, (place / 10, 0.5, 2.0 * place, 1.0 - place / 20, 5.0), strict=True))


def compute_triplet(rows: Sequence[Row]) -> list[RowOutcome]:
    broken = RowError(Reason.NON_FINITE, "made to fail")
    return [broken if row["pair_id"] == BROKEN else {"swapped": row["pair_id"].encode()} for row in rows]


def compute_scores(rows: Sequence[Row]) -> list[RowOutcome]:
    none: Mapping[str, Any] = dict.fromkeys(NAMES)
    return [
        {"face_found": False, "face_reason": "no_face", **none}
        if row["pair_id"] == FACELESS
        else {"face_found": True, "face_reason": None, **hand_made(row["pair_id"])}
        for row in rows
    ]


def graph_with(config: TripletsReleaseConfig | None = None) -> StageGraph:
    shared: dict[str, Any] = {
        "code_version": "1",
        "config": NoConfig(),
        "description": "",
        "table": "triplets",
    }
    return StageGraph(
        (
            RowStage(
                name="pseudo_triplets",
                inputs=(Input("faces", ("consent",), via=TARGET),),
                outputs=(Column("swapped", pa.binary(), picture=True),),
                load=lambda context: compute_triplet,
                **shared,
            ),
            RowStage(
                name="triplet_scores",
                inputs=(Input("pseudo_triplets", ("swapped",)),),
                outputs=(
                    Column("face_found", pa.bool_()),
                    Column("face_reason", pa.string(), optional=True),
                    *SCORES,
                ),
                load=lambda context: compute_scores,
                **shared,
            ),
            triplets_release_stage(config),
        )
    )


def new_lake(folder: Path, *stages: str) -> Lake:
    for number, name in enumerate(PEOPLE):
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(folder / "photos" / name / "1.png")
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "photos", consent=Consent.SYNTHETIC)
    rows = [dict(zip(("source_image_id", TARGET), pair.split("__"), strict=True)) for pair in PAIRS]
    pairs = [{"pair_id": pair, **row} for pair, row in zip(PAIRS, rows, strict=True)]
    sync_pairs(lake.triplets, pairs, TRIPLETS_SCHEMA, 5, "triplets")
    graph = graph_with()
    graph.prepare(lake)
    run_stages(lake, graph, stages, device="cpu")
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return new_lake(tmp_path_factory.mktemp("scored"), "pseudo_triplets", "triplet_scores")


def release(lake: Lake, **settings: Any) -> Artifact:
    graph = graph_with(TripletsReleaseConfig(**settings))
    stage = graph["triplets_release"]
    assert isinstance(stage, ArtifactStage)
    return run_artifact(lake, graph, stage, device="cpu", report=lambda text: None).artifact


def places(lake: Lake, artifact: Artifact) -> list[int]:
    return sorted(PAIRS.index(pair) for pair in released_triplets(lake, artifact))


def test_nothing_is_filtered_unless_asked(lake: Lake) -> None:
    artifact = release(lake)
    assert released_triplets(lake, artifact) == sorted(PAIRS[1:])
    assert artifact.metadata["triplets"] == 11
    assert artifact.metadata["left_out"] == {"not ok": 1}
    assert lake.triplets.snapshot(artifact.metadata["tag"]).version == artifact.metadata["version"]


@pytest.mark.parametrize(
    ("settings", "kept", "left_out"),
    [
        ({"min_identity": 0.8}, [8, 9, 10, 11], {"min_identity": 6}),
        ({"max_pose_degrees": 8.0}, [2, 3, 4], {"max_pose_degrees": 7}),
        ({"max_expression": 0.5}, [10, 11], {"max_expression": 8}),
        ({"max_identity_leak": 0.5, "min_aesthetic": 5.0}, [*range(2, 12)], {}),
        (
            {"min_identity": 0.35, "max_pose_degrees": 12},
            [4, 5, 6],
            {"max_pose_degrees": 5, "min_identity": 2},
        ),
    ],
)
def test_filters_keep_what_is_at_their_limits_and_count_the_rest(
    lake: Lake, settings: dict[str, float], kept: list[int], left_out: dict[str, int]
) -> None:
    artifact = release(lake, **settings)
    assert places(lake, artifact) == kept
    assert artifact.metadata["left_out"] == {"not ok": 1, "no face": 1, **left_out}
    assert artifact_complete(lake, "triplets_release").passed


@pytest.mark.parametrize("settings", [{"max_identity_leak": 0.49}, {"min_aesthetic": 5.01}])
def test_a_filter_that_leaves_nothing_is_an_error_that_counts(lake: Lake, settings: dict[str, float]) -> None:
    name = next(iter(settings))
    with pytest.raises(LakeError, match=rf"none of 12 pseudo triplets is left.*10 by {name}"):
        release(lake, **settings)


def test_train_size_draws_by_seed_and_not_the_head(lake: Lake) -> None:
    drawn = {seed: places(lake, release(lake, train_size=4, seed=seed)) for seed in range(6)}
    assert all(len(each) == 4 for each in drawn.values())
    assert len({tuple(each) for each in drawn.values()}) > 3
    assert len(set().union(*drawn.values())) > 8
    assert places(lake, release(lake, train_size=4, seed=2)) == drawn[2]
    # a larger draw holds the smaller one, and a filter takes away without another draw
    assert set(drawn[2]) < set(places(lake, release(lake, train_size=7, seed=2)))
    artifact = release(lake, train_size=4, seed=2)
    assert artifact.metadata["left_out"] == {"not ok": 1, "train_size": 7}
    assert artifact_complete(lake, "triplets_release").passed


def test_only_a_filter_waits_for_scores_and_only_what_is_released_counts(tmp_path: Path) -> None:
    lake = new_lake(tmp_path, "pseudo_triplets")
    plain = release(lake)
    with pytest.raises(UpstreamPending, match="triplets_release waits for pseudo_triplets, triplet_scores"):
        release(lake, min_identity=0.0)
    run_stages(lake, graph_with(), ["triplet_scores"], device="cpu")
    assert release(lake).fingerprint == plain.fingerprint
    assert release(lake, min_identity=0.15).digest == release(lake, max_pose_degrees=100.0).digest
    assert release(lake, min_identity=0.35).digest != plain.digest


def test_damage_of_the_list_is_found_and_forgotten_people_leave_it(tmp_path: Path) -> None:
    lake = new_lake(tmp_path, "pseudo_triplets", "triplet_scores")
    artifact = release(lake, min_identity=0.3)
    assert artifact.location is not None
    path = Path(lake.uri) / artifact.location
    whole = path.read_bytes()
    pq.write_table(pq.read_table(path).slice(1), path)
    finding = artifact_complete(lake, "triplets_release")
    assert not finding.passed
    assert "lists 8 triplets, the release says 9" in finding.message
    path.write_bytes(whole)
    report = forget(lake, identities=["c"])
    assert artifact.location in report.lists
    left = pq.read_table(path).to_pylist()
    assert left
    assert not [row for row in left if "c/1" in row.values()]
    assert len(left) == sum("c/1" not in pair for pair in PAIRS[3:])


class _Asked(Exception):
    """Carries what the student would have been trained on."""


def test_a_student_learns_from_exactly_the_released_triplets(
    smoke_lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    own = Lake.open(tmp_path / "lake")
    config = profile("smoke").graph()["student"].config
    assert isinstance(config, TrainingConfig)
    # a validation would hold triplets out
    recipe = config.recipe.model_copy(update={"validation_interval": None})
    student = student_stage(config.model_copy(update={"recipe": recipe}))
    context = StageContext(own, student.resolve_weights(), "cpu", lambda text: None)
    chosen = triplets_release_stage(TripletsReleaseConfig(train_size=3, seed=4))
    artifact = chosen.build(context, bytes(16))
    own.record_artifact(artifact)
    wanted = released_triplets(own, artifact)
    assert len(wanted) == 3

    def train(context: StageContext, config: Any, base: Any, data: Any, **settings: Any) -> Artifact:
        raise _Asked(data)

    monkeypatch.setattr(assets.student, "train_checkpoint", train)
    with pytest.raises(_Asked) as caught:
        student.build(context, b"")
    data = caught.value.args[0]
    batch = data.read(data.draw(np.random.default_rng(0), 64))
    rows = own.triplets.snapshot().find(wanted, ["swapped_latents"])
    shown = {each.numpy().astype(np.float16).tobytes() for each in batch.condition_latents_BLC}
    assert shown == {np.asarray(row["swapped_latents"], np.float16).tobytes() for row in rows.values()}
