"""Checks of the data: every one is seen to pass on a real lake and to fail on the same lake, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.checks.catalogue import CheckRun, DataChecks, checks_of
from assets.checks.findings import Severity
from assets.checks.limits import CheckLimits, ShareLimit
from assets.stage import StageGraph
from assets.swap_methods import methods_of
from pipeline import cli
from pipeline.profiles import profile
from resources.lake.lake import Lake

SHARD = "shard-00001"


@pytest.fixture(scope="module")
def graph() -> StageGraph:
    return profile("smoke").graph()


@pytest.fixture
def lake(smoke_lake, tmp_path: Path) -> Lake:
    """The finished lake of the profile `smoke`, to be damaged."""
    shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


@pytest.fixture
def look(lake: Lake, graph: StageGraph) -> Callable[..., CheckRun]:
    """Run one check of one stage on one shard of the lake as it is now."""

    def run(stage: str, check: str, shard: str | None = SHARD, limits: CheckLimits | None = None) -> CheckRun:
        limited = StageGraph(graph.stages, limits) if limits else graph
        [found] = DataChecks(lake, limited).run(stage, shard, names=[check])
        assert found.check.name == check
        return found

    return run


def test_a_finished_lake_passes_every_check(smoke_lake, graph) -> None:
    checks = DataChecks(smoke_lake.lake, graph)
    seen: dict[str, set[str]] = {}
    for name in ("faces", *graph.names):
        table = checks_of(graph, name)[0].name == "rows_accounted"
        stage_table = "faces" if name == "faces" else getattr(graph[name], "table", None)
        shards = smoke_lake.lake.table(stage_table).snapshot().shards() if table and stage_table else [None]
        for run in (run for shard in shards for run in checks.run(name, shard)):
            assert run.finding.passed, run
            json.dumps(run.as_json())
            seen.setdefault(run.stage, set()).add(run.check.name)
    rows = {"rows_accounted", "schema_as_declared", "quarantined_share"}
    assert seen["faces"] == {*rows, "ids_unique"}
    assert seen["latents"] == {*rows, "values_finite"}
    assert seen["landmarks"] == {*rows, "values_finite", "landmarks_plausible"}
    assert seen["iris"] == {*rows, "values_finite", "iris_plausible"}
    for name in ("pseudo_triplets", "swaps", "diffface_swaps"):
        assert seen[name] == {*rows, "values_finite", "ids_unique"}
    assert seen["triplet_scores"] == {*rows, "values_finite"}
    made = ("release", "prompt_embeddings", "teacher", "triplets_release", "student")
    for name in (*made, "evaluation", "frontier", "evaluation_protocol"):
        assert seen[name] == {"artifact_complete"}


@pytest.mark.parametrize(
    "parts",
    [
        {"status": "quarantined", "reason": "no_such_reason"},
        {"status": "quarantined", "reason": None},
        {"status": "finished"},
        {"digest": None},
        {"reason": "no_face"},
    ],
    ids=["unknown reason", "no reason", "unknown status", "no digest", "ok with a reason"],
)
def test_rows_whose_state_says_nothing_are_not_accounted_for(damage, look, parts) -> None:
    bad = damage.ids()[:2]
    damage.state("iris", bad, **parts)
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.severity is Severity.ERROR
    assert run.finding.metadata["unaccounted_rows"] == bad
    assert all(key in run.finding.message for key in bad)
    assert "orchard run iris --force" in run.finding.message


def test_pending_rows_are_counted_by_the_planner(damage, look, graph) -> None:
    damage.state("landmarks", damage.ids()[:3], digest=bytes(16))
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.metadata == {"rows": 8, "ok": 8, "quarantined": 0, "pending": 3}
    assert look("iris", "rows_accounted", "shard-00000").finding.passed


def test_an_id_that_two_rows_share_is_found_in_whatever_shard(lake, damage, look) -> None:
    first, second = damage.ids("shard-00000")[0], damage.ids()[0]
    damage.rewrite("faces", lambda rows: damage.put(rows, "image_id", "image_id", {second: first}))
    run = look("faces", "ids_unique", "shard-00002")
    assert not run.finding.passed
    assert run.finding.metadata["repeated_ids"] == [first]
    assert first in run.finding.message
    assert "orchard forget --image ID" in run.finding.message
    pair = lake.swaps.snapshot().scan(["pair_id"])["pair_id"].to_pylist()
    damage.rewrite(
        "swaps", lambda rows: damage.put(rows, "pair_id", "pair_id", {pair[1]: pair[0], pair[2]: ""})
    )
    run = look("swaps", "ids_unique", "swaps-00000")
    assert (run.finding.metadata["repeated"], run.finding.metadata["empty"]) == (1, 1)
    assert pair[0] in run.finding.message


def test_columns_that_are_not_as_declared_are_named(lake, damage, look) -> None:
    def other(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("face_count")
        rows = rows.set_column(place, "face_count", rows["face_count"].cast(pa.int64()))
        place = rows.schema.get_field_index("identity")
        rows = rows.set_column(place, pa.field("identity", pa.string(), nullable=True), rows["identity"])
        return rows.drop_columns(["pose"])

    damage.rewrite("faces", other)
    run = look("landmarks", "schema_as_declared")
    assert run.finding.metadata["wrong"] == ["pose is missing", "face_count is int64, declared int16"]
    assert "--lake" in run.finding.message
    [wrong] = look("faces", "schema_as_declared").finding.metadata["wrong"]
    assert wrong == "identity may be null, declared the other way"
    assert look("iris", "schema_as_declared").finding.passed


def test_quarantined_rows_warn_above_the_soft_limit_and_fail_above_the_hard_one(damage, look) -> None:
    keys = damage.ids()
    damage.state("masks", keys[:1], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.WARN)
    assert run.finding.metadata["reasons"] == {"no_face": 1}
    assert run.finding.metadata["rows"] == keys[:1]
    assert "12.5%" in run.finding.message
    loose = CheckLimits(quarantined_of={"masks": ShareLimit(warn=0.2, error=0.9)})
    assert look("masks", "quarantined_share", limits=loose).finding.passed
    damage.state("masks", keys[:5], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.ERROR)
    assert "orchard run masks --retry quarantined" in run.finding.message


def test_rows_lost_above_are_told_where_they_were_lost(damage, look) -> None:
    damage.state("condition", damage.ids()[:6], status="quarantined", reason="upstream")
    run = look("condition", "quarantined_share")
    assert run.finding.passed
    assert run.finding.metadata["rows_reached"] == 2
    assert run.finding.metadata["reasons"] == {"upstream": 6}


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="below that for a warning"):
        ShareLimit(warn=0.5, error=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_in_any_float_column(damage, look, value) -> None:
    keys = damage.ids()

    def spoil(values: np.ndarray) -> np.ndarray:
        values[7] = value
        return values

    damage.values("latent_condition", spoil, [keys[1]])
    damage.rewrite("faces", lambda rows: damage.put(rows, "face_score", "image_id", {keys[2]: value}))
    run = look("latents", "values_finite")
    assert run.finding.metadata["rows"] == [keys[1]]
    assert run.finding.metadata["wrong"] == {"latent_condition is not finite": 1}
    assert "orchard run latents --force" in run.finding.message
    assert look("landmarks", "values_finite").finding.metadata["rows"] == [keys[2]]
    assert look("landmarks", "values_finite", "shard-00000").finding.passed


def test_a_value_is_there_exactly_when_its_row_is_ok(damage, look) -> None:
    keys = damage.ids()
    damage.rewrite("faces", lambda rows: damage.put(rows, "visible_face", "image_id", {keys[0]: None}))
    damage.state("masks", keys[4:5], status="quarantined", reason="no_face")
    run = look("masks", "values_finite")
    assert run.finding.metadata["wrong"] == {
        "parsing is there though the row is not ok": 1,
        "visible_face is missing": 1,
        "visible_face is there though the row is not ok": 1,
    }
    assert run.finding.metadata["rows"] == [keys[4], keys[0]] or run.finding.metadata["rows"] == [
        keys[0],
        keys[4],
    ]


FAR = np.array([4000.0, 4000.0])


def shifted(by: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: points.reshape(-1, 2) + by


def mirrored(points: np.ndarray) -> np.ndarray:
    """Left and right of the picture exchanged, the order of the points kept: eyes change places."""
    found = points.reshape(-1, 2).copy()
    found[:, 0] = 2 * found[:, 0].mean() - found[:, 0]
    return found


def upside_down(matrix: np.ndarray) -> np.ndarray:
    """The alignment turned by 180 degrees about the middle of its 512-pixel frame."""
    return np.array([[-1, 0, 512], [0, -1, 512], [0, 0, 1]]) @ np.vstack([matrix.reshape(2, 3), [0, 0, 1]])


def collapsed(points: np.ndarray) -> np.ndarray:
    found = points.reshape(-1, 2).copy()
    found[36:48] = found[36:48].mean(axis=0)
    return found


@pytest.mark.parametrize(
    ("column", "change", "rule"),
    [
        ("landmarks_68", shifted(FAR), "outside the photograph"),
        ("landmarks_68", shifted(np.array([0.0, -130.0])), "beside the face box"),
        ("landmarks_68", lambda points: points * 0.2, "another size than the face box"),
        ("landmarks_68", mirrored, "left and right exchanged when aligned"),
        ("landmarks_68", collapsed, "eyes in one place or too far apart"),
        ("landmarks_68", lambda points: points * np.nan, "eyes in one place or too far apart"),
        ("alignment", lambda matrix: upside_down(matrix)[:2], "upside down when aligned"),
        ("alignment", lambda matrix: matrix * 2, "eyes off the middle of the aligned frame"),
        ("face_box", lambda box: box * 5, "another size than the face box"),
    ],
)
def test_landmarks_that_no_face_has_are_named(damage, look, column, change, rule) -> None:
    bad = damage.ids()[3]
    damage.values(column, change, [bad])
    run = look("landmarks", "landmarks_plausible")
    assert not run.finding.passed
    assert run.finding.severity is Severity.ERROR, "one of eight is more than two in a hundred"
    assert list(run.finding.metadata["rows"]) == [bad]
    assert rule in run.finding.metadata["rows"][bad]
    assert bad in run.finding.message
    assert rule in run.finding.message
    rare = CheckLimits(implausible=ShareLimit(warn=0.0, error=0.2))
    assert look("landmarks", "landmarks_plausible", limits=rare).finding.severity is Severity.WARN


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda points: points.reshape(10, 2)[[*range(5, 10), *range(5)]], "not between the corners"),
        (shifted(np.array([0.0, 25.0])), "above or below its eye"),
        (lambda points: np.repeat(points.reshape(10, 2)[[0, 5]], 5, axis=0), "impossible size"),
    ],
    ids=["exchanged", "moved", "without size"],
)
def test_irises_that_no_eye_has_are_named(damage, look, change, rule) -> None:
    bad = damage.ids()[2]
    damage.values("iris_10", change, [bad])
    run = look("iris", "iris_plausible")
    assert list(run.finding.metadata["rows"]) == [bad]
    assert rule in run.finding.message


def test_no_more_than_ten_rows_are_listed(damage, look) -> None:
    every = damage.ids("shard-00000") + damage.ids()
    damage.rewrite("faces", lambda rows: rows.set_column(2, "shard", pa.array([SHARD] * rows.num_rows)))
    damage.values("landmarks_68", shifted(FAR), every)
    run = look("landmarks", "landmarks_plausible")
    assert run.finding.metadata["implausible"] == 16
    assert len(run.finding.metadata["rows"]) == 10
    assert "and 6 more" in run.finding.message


def changed_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40
    path.write_bytes(data)


def test_an_artifact_is_whole_or_says_what_is_not(lake, look) -> None:
    teacher, release = lake.current_artifact("teacher"), lake.current_artifact("release")
    assert teacher
    assert teacher.location
    assert release
    assert release.location
    root = Path(lake.uri)
    changed_bytes(next((root / teacher.location).glob("*.safetensors")))
    (root / teacher.metadata["losses"]).unlink()
    run = look("teacher", "artifact_complete", None)
    assert not run.finding.passed
    assert "another SHA-256 than its manifest names" in run.finding.message
    assert "loss curve" in run.finding.message
    assert "orchard run teacher --force" in run.finding.message
    manifest = root / teacher.location / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 7'))
    assert "not the one that was registered" in look("teacher", "artifact_complete", None).finding.message
    manifest.unlink()
    assert "no readable manifest" in look("teacher", "artifact_complete", None).finding.message
    assert look("student", "artifact_complete", None).finding.passed

    rows = (root / release.location).read_bytes()
    (root / release.location).write_bytes(rows[: len(rows) // 2])
    assert "cannot be read" in look("release", "artifact_complete", None).finding.message
    (root / release.location).write_bytes(rows)
    lance.dataset(lake.faces.uri).tags.delete(release.metadata["tag"])
    faults = look("release", "artifact_complete", None).finding.metadata["faults"]
    assert faults == [f"the tag {release.metadata['tag']} is gone"]


def test_weights_and_metrics_that_are_not_finite_are_found(lake, damage, look) -> None:
    import hashlib

    import torch
    from safetensors.torch import load_file, save_file

    student, evaluation = lake.current_artifact("student"), lake.current_artifact("evaluation")
    assert student
    assert student.location
    assert evaluation
    folder = Path(lake.uri) / student.location
    [path] = folder.glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path)
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text())
    told["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(told))
    assert f"the tensor {name} is not finite" in look("student", "artifact_complete", None).finding.message

    measured = lake.evaluations.snapshot().dataset.to_table(
        filter=f"evaluation = '{evaluation.digest.hex()}'"
    )
    methods = methods_of(diffface=True)
    assert set(measured["method"].to_pylist()) == {"copy_target", "codec_ceiling", *methods}
    count = look("evaluation", "artifact_complete", None).finding.metadata["metrics"]
    assert count == measured.num_rows >= 10 * (2 + len(methods))

    def spoil(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("low")
        low = rows["low"].to_pylist()
        low[0] = rows["mean"][0].as_py() + 1
        return rows.set_column(place, rows.schema.field(place), pa.array(low))

    damage.rewrite("evaluations", spoil)
    assert len(look("evaluation", "artifact_complete", None).finding.metadata["faults"]) == 1
    lance.dataset(lake.evaluations.uri).delete("true")
    assert "missing from the table" in look("evaluation", "artifact_complete", None).finding.message


def orchard_check(lake: Lake, *arguments: str) -> tuple[int, Any]:
    options = ["--lake", lake.uri, "--profile", "smoke", "--json"]
    done = CliRunner().invoke(cli.app, ["check", *arguments, *options])
    return done.exit_code, json.loads(done.stdout) if done.exit_code in (0, 1) else done.output


def test_the_command_gives_1_for_errors_and_0_for_warnings(lake, damage) -> None:
    code, found = orchard_check(lake)
    assert (code, found["passed"], found["errors"], found["warnings"]) == (0, True, 0, 0)
    assert {run["stage"] for run in found["checks"]} == {"faces", *profile("smoke").graph().names}
    keys = damage.ids()
    damage.state("identity_embedding", keys[:1], status="quarantined", reason="model_error")
    damage.rewrite(
        "faces",
        lambda rows: damage.put(rows, "identity_embedding", "image_id", {keys[0]: None}),
    )
    damage.rewrite("faces", lambda rows: damage.put(rows, "identity_embedder", "image_id", {keys[0]: None}))
    code, found = orchard_check(lake, "identity_embedding")
    assert (code, found["errors"], found["warnings"]) == (0, 0, 1)
    damage.values("landmarks_68", shifted(FAR), keys[:1])
    code, found = orchard_check(lake, "landmarks", "--shard", SHARD)
    assert (code, found["errors"]) == (1, 1)
    [failed] = [run for run in found["checks"] if not run["passed"]]
    assert (failed["check"], failed["shard"], failed["blocking"]) == ("landmarks_plausible", SHARD, False)
    assert keys[0] in failed["message"]
    assert orchard_check(lake, "landmarks", "--shard", "shard-00000")[0] == 0
    refused = " ".join(orchard_check(lake, "--shard", "nowhere")[1].split())
    assert "no shard nowhere; there are: " in refused
    assert " shard-00000," in refused


def test_shards_without_results_are_passed_over(tmp_path: Path, smoke_lake) -> None:
    from resources.lake.ingest import ingest

    empty = Lake.open(tmp_path / "new", create=True)
    ingest(empty, smoke_lake.folder / "photos", shard_size=8)
    code, found = orchard_check(empty)
    assert code == 0
    assert {run["stage"] for run in found["checks"]} == {"faces"}
