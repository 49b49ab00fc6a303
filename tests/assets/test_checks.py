"""Checks of the data: every one is seen to pass on a real lake and to fail on the same lake, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.checks.catalogue import ACCOUNTING, CheckRun, DataChecks, checks_of
from assets.checks.findings import Severity
from assets.checks.limits import CheckLimits, ShareLimit
from assets.dagster_assets import build_assets, build_checks, register_partitions
from assets.stage import StageGraph
from pipeline import cli
from pipeline.profiles import profile
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource

SHARD = "shard-00001"
PLAUSIBLE = dg.AssetCheckKey(dg.AssetKey("landmarks"), "landmarks_plausible")


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


def ids(lake: Lake, shard: str = SHARD) -> list[str]:
    return lake.faces.snapshot().scan(["image_id"], shard=shard)["image_id"].to_pylist()


def rewrite(lake: Lake, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a whole table anew behind the lake's back, changed; its shards stay whole fragments."""
    uri = lake.table(table).uri
    rows = change(lance.dataset(uri).to_table())
    lance.write_dataset(rows, uri, mode="overwrite", data_storage_version="2.2", enable_stable_row_ids=True)


def put(rows: pa.Table, column: str, key: str, values: dict[str, Any]) -> pa.Table:
    """The table with values of one column exchanged, by key."""
    place = rows.schema.get_field_index(column)
    old = rows[column].to_pylist()
    new = [
        values.get(name, value) if name in values else value
        for name, value in zip(rows[key].to_pylist(), old, strict=True)
    ]
    return rows.set_column(place, rows.schema.field(place), pa.array(new, rows.schema.field(place).type))


def change_values(
    lake: Lake, column: str, change: Callable[[np.ndarray], np.ndarray], keys: list[str]
) -> None:
    """Apply a function to one list column of some photographs."""

    def changed(rows: pa.Table) -> pa.Table:
        old = dict(zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True))
        new = {key: change(np.array(old[key])).ravel().tolist() for key in keys}
        return put(rows, column, "image_id", new)

    rewrite(lake, "faces", changed)


def change_state(lake: Lake, stage: str, keys: list[str], **parts: Any) -> None:
    """Overwrite parts of the state of some photographs."""

    def changed(rows: pa.Table) -> pa.Table:
        column = f"{stage}_state"
        old = dict(zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True))
        return put(rows, column, "image_id", {key: {**old[key], **parts} for key in keys})

    rewrite(lake, "faces", changed)


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
    assert seen["pseudo_triplets"] == seen["swaps"] == {*rows, "values_finite", "ids_unique"}
    assert seen["triplet_scores"] == {*rows, "values_finite"}
    for name in ("release", "prompt_embeddings", "teacher", "triplets_release", "student", "evaluation"):
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
def test_rows_whose_state_says_nothing_are_not_accounted_for(lake, look, parts) -> None:
    bad = ids(lake)[:2]
    change_state(lake, "iris", bad, **parts)
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.severity is Severity.ERROR
    assert run.finding.metadata["unaccounted_rows"] == bad
    assert all(key in run.finding.message for key in bad)
    assert "orchard run iris --force" in run.finding.message


def test_pending_rows_are_counted_by_the_planner(lake, look, graph) -> None:
    change_state(lake, "landmarks", ids(lake)[:3], digest=bytes(16))
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.metadata == {"rows": 8, "ok": 8, "quarantined": 0, "pending": 3}
    assert look("iris", "rows_accounted", "shard-00000").finding.passed


def test_an_id_that_two_rows_share_is_found_in_whatever_shard(lake, look) -> None:
    first, second = ids(lake, "shard-00000")[0], ids(lake)[0]
    rewrite(lake, "faces", lambda rows: put(rows, "image_id", "image_id", {second: first}))
    run = look("faces", "ids_unique", "shard-00002")
    assert not run.finding.passed
    assert run.finding.metadata["repeated_ids"] == [first]
    assert first in run.finding.message
    assert "orchard forget --image ID" in run.finding.message
    pair = lake.swaps.snapshot().scan(["pair_id"])["pair_id"].to_pylist()
    rewrite(lake, "swaps", lambda rows: put(rows, "pair_id", "pair_id", {pair[1]: pair[0], pair[2]: ""}))
    run = look("swaps", "ids_unique", "swaps-00000")
    assert (run.finding.metadata["repeated"], run.finding.metadata["empty"]) == (1, 1)
    assert pair[0] in run.finding.message


def test_columns_that_are_not_as_declared_are_named(lake, look) -> None:
    def other(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("face_count")
        rows = rows.set_column(place, "face_count", rows["face_count"].cast(pa.int64()))
        place = rows.schema.get_field_index("identity")
        rows = rows.set_column(place, pa.field("identity", pa.string(), nullable=True), rows["identity"])
        return rows.drop_columns(["pose"])

    rewrite(lake, "faces", other)
    run = look("landmarks", "schema_as_declared")
    assert run.finding.metadata["wrong"] == ["pose is missing", "face_count is int64, declared int16"]
    assert "--lake" in run.finding.message
    [wrong] = look("faces", "schema_as_declared").finding.metadata["wrong"]
    assert wrong == "identity may be null, declared the other way"
    assert look("iris", "schema_as_declared").finding.passed


def test_quarantined_rows_warn_above_the_soft_limit_and_fail_above_the_hard_one(lake, look) -> None:
    keys = ids(lake)
    change_state(lake, "masks", keys[:1], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.WARN)
    assert run.finding.metadata["reasons"] == {"no_face": 1}
    assert run.finding.metadata["rows"] == keys[:1]
    assert "12.5%" in run.finding.message
    loose = CheckLimits(quarantined_of={"masks": ShareLimit(warn=0.2, error=0.9)})
    assert look("masks", "quarantined_share", limits=loose).finding.passed
    change_state(lake, "masks", keys[:5], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.ERROR)
    assert "orchard run masks --retry quarantined" in run.finding.message


def test_rows_lost_above_are_told_where_they_were_lost(lake, look) -> None:
    change_state(lake, "condition", ids(lake)[:6], status="quarantined", reason="upstream")
    run = look("condition", "quarantined_share")
    assert run.finding.passed
    assert run.finding.metadata["rows_reached"] == 2
    assert run.finding.metadata["reasons"] == {"upstream": 6}


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="below that for a warning"):
        ShareLimit(warn=0.5, error=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_in_any_float_column(lake, look, value) -> None:
    keys = ids(lake)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[7] = value
        return values

    change_values(lake, "latent_condition", spoil, [keys[1]])
    rewrite(lake, "faces", lambda rows: put(rows, "face_score", "image_id", {keys[2]: value}))
    run = look("latents", "values_finite")
    assert run.finding.metadata["rows"] == [keys[1]]
    assert run.finding.metadata["wrong"] == {"latent_condition is not finite": 1}
    assert "orchard run latents --force" in run.finding.message
    assert look("landmarks", "values_finite").finding.metadata["rows"] == [keys[2]]
    assert look("landmarks", "values_finite", "shard-00000").finding.passed


def test_a_value_is_there_exactly_when_its_row_is_ok(lake, look) -> None:
    keys = ids(lake)
    rewrite(lake, "faces", lambda rows: put(rows, "visible_face", "image_id", {keys[0]: None}))
    change_state(lake, "masks", keys[4:5], status="quarantined", reason="no_face")
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
def test_landmarks_that_no_face_has_are_named(lake, look, column, change, rule) -> None:
    bad = ids(lake)[3]
    change_values(lake, column, change, [bad])
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
def test_irises_that_no_eye_has_are_named(lake, look, change, rule) -> None:
    bad = ids(lake)[2]
    change_values(lake, "iris_10", change, [bad])
    run = look("iris", "iris_plausible")
    assert list(run.finding.metadata["rows"]) == [bad]
    assert rule in run.finding.message


def test_no_more_than_ten_rows_are_listed(lake, look) -> None:
    every = ids(lake, "shard-00000") + ids(lake)
    rewrite(lake, "faces", lambda rows: rows.set_column(2, "shard", pa.array([SHARD] * rows.num_rows)))
    change_values(lake, "landmarks_68", shifted(FAR), every)
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


def test_weights_and_metrics_that_are_not_finite_are_found(lake, look) -> None:
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

    count = look("evaluation", "artifact_complete", None).finding.metadata["metrics"]
    assert count == 30, "six metrics of three methods, of doing nothing, and of the codec"

    def spoil(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("low")
        low = rows["low"].to_pylist()
        low[0] = rows["mean"][0].as_py() + 1
        return rows.set_column(place, rows.schema.field(place), pa.array(low))

    rewrite(lake, "evaluations", spoil)
    assert len(look("evaluation", "artifact_complete", None).finding.metadata["faults"]) == 1
    lance.dataset(lake.evaluations.uri).delete("true")
    assert "missing from the table" in look("evaluation", "artifact_complete", None).finding.message


def orchard_check(lake: Lake, *arguments: str) -> tuple[int, Any]:
    options = ["--lake", lake.uri, "--profile", "smoke", "--json"]
    done = CliRunner().invoke(cli.app, ["check", *arguments, *options])
    return done.exit_code, json.loads(done.stdout) if done.exit_code in (0, 1) else done.output


def test_the_command_gives_1_for_errors_and_0_for_warnings(lake) -> None:
    code, found = orchard_check(lake)
    assert (code, found["passed"], found["errors"], found["warnings"]) == (0, True, 0, 0)
    assert {run["stage"] for run in found["checks"]} == {"faces", *profile("smoke").graph().names}
    keys = ids(lake)
    change_state(lake, "identity_embedding", keys[:1], status="quarantined", reason="model_error")
    rewrite(
        lake,
        "faces",
        lambda rows: put(rows, "identity_embedding", "image_id", {keys[0]: None}),
    )
    rewrite(lake, "faces", lambda rows: put(rows, "identity_embedder", "image_id", {keys[0]: None}))
    code, found = orchard_check(lake, "identity_embedding")
    assert (code, found["errors"], found["warnings"]) == (0, 0, 1)
    change_values(lake, "landmarks_68", shifted(FAR), keys[:1])
    code, found = orchard_check(lake, "landmarks", "--shard", SHARD)
    assert (code, found["errors"]) == (1, 1)
    [failed] = [run for run in found["checks"] if not run["passed"]]
    assert (failed["check"], failed["shard"], failed["blocking"]) == ("landmarks_plausible", SHARD, False)
    assert keys[0] in failed["message"]
    assert orchard_check(lake, "landmarks", "--shard", "shard-00000")[0] == 0
    assert "there are: shard-00000" in " ".join(orchard_check(lake, "--shard", "nowhere")[1].split())


def test_shards_without_results_are_passed_over(tmp_path: Path, smoke_lake) -> None:
    from resources.lake.ingest import ingest

    empty = Lake.open(tmp_path / "new", create=True)
    ingest(empty, smoke_lake.folder / "photos", shard_size=8)
    code, found = orchard_check(empty)
    assert code == 0
    assert {run["stage"] for run in found["checks"]} == {"faces"}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def materialise(
    graph: StageGraph,
    lake: Lake,
    instance: dg.DagsterInstance,
    selection: Any,
    shard: str | None = SHARD,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*build_assets(graph), *build_checks(graph)],
        selection=selection,
        # as the daemon and the UI tag runs; the argument `partition_key` refuses checks alone
        tags={"dagster/partition": shard} if shard else tags,
        instance=instance,
        resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    return {
        (item.asset_key.to_user_string(), item.check_name): item
        for item in result.get_asset_check_evaluations()
    }


def test_dagster_runs_the_checks_of_a_shard_behind_it_and_alone(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = ids(lake)[0]
    change_values(lake, "landmarks_68", shifted(FAR), [bad])
    result = materialise(graph, lake, instance, ["landmarks", "iris"])
    assert result.success, "an implausible row holds nothing back"
    found = evaluations(result)
    assert set(found) == {
        (stage, check.name) for stage in ("landmarks", "iris") for check in checks_of(graph, stage)
    }
    assert {item.partition for item in found.values()} == {SHARD}
    failed = [key for key, item in found.items() if not item.passed]
    assert ("landmarks", "landmarks_plausible") in failed
    seen = found["landmarks", "landmarks_plausible"]
    assert bad in str(seen.description)
    assert seen.severity is dg.AssetCheckSeverity.ERROR
    assert seen.metadata["implausible"].value == 1

    alone = dg.AssetSelection.checks(PLAUSIBLE)
    change_values(lake, "landmarks_68", shifted(-FAR), [bad])
    result = materialise(graph, lake, instance, alone)
    assert result.success
    assert [(key, item.passed) for key, item in evaluations(result).items()] == [
        (("landmarks", "landmarks_plausible"), True)
    ]
    assert not [event for event in result.all_events if event.is_step_materialization]


def test_checks_run_without_a_partition_look_at_every_shard(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = ids(lake)[0]
    change_values(lake, "landmarks_68", shifted(FAR), [bad])
    alone = dg.AssetSelection.checks(PLAUSIBLE)
    # Dagster looks for the newest materialisation of what is checked: there must be one
    assert materialise(graph, lake, instance, ["landmarks"], "shard-00002").success
    result = materialise(graph, lake, instance, alone, shard=None)
    assert result.success
    [summed] = evaluations(result).values()
    assert not summed.passed
    assert summed.metadata["failed_shards"].value == [SHARD]
    assert f"1 of 3 shards failed: {SHARD}" in str(summed.description)
    assert bad in str(summed.description)
    assert told(instance) == (False, [SHARD], 3)
    assert materialise(graph, lake, instance, alone, shard=None).success, "as often as one likes"


def test_a_run_of_a_backfill_checks_its_own_shard(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    ends = {f"dagster/asset_partition_range_{end}": SHARD for end in ("start", "end")}
    result = materialise(graph, lake, instance, ["landmarks"], shard=None, tags=ends)
    assert result.success
    found = evaluations(result)
    assert set(found) == {("landmarks", check.name) for check in checks_of(graph, "landmarks")}
    # what the asset's own step yields is dated by Dagster, which knows no partition of a range
    assert {item.partition for (_, name), item in found.items() if name != ACCOUNTING.name} == {SHARD}


def test_a_failed_blocking_check_holds_back_what_is_below(lake, graph, instance) -> None:
    register_partitions(instance, lake)
    bad = ids(lake)[0]
    rewrite(lake, "faces", lambda rows: put(rows, "face_score", "image_id", {bad: float("nan")}))
    result = materialise(graph, lake, instance, ["landmarks", "iris"])
    assert not result.success
    found = evaluations(result)
    assert not found["landmarks", "values_finite"].passed
    assert ("iris", "rows_accounted") not in found, "iris did not start"


def test_what_orchard_run_reports_includes_the_checks(lake, graph, instance) -> None:
    """Time and again: Dagster refuses a second outcome of a partition that no run made."""
    from pipeline.dagster_sync import report_versions

    small = StageGraph((graph["landmarks"],))
    bad, other = ids(lake)[0], ids(lake, "shard-00000")[0]
    change_values(lake, "landmarks_68", shifted(FAR), [bad])
    register_partitions(instance, lake)
    assert report_versions(instance, lake, small, checked=True) == 6
    assert told(instance) == (False, [SHARD], 3)
    assert report_versions(instance, lake, small, checked=True) == 0
    assert len(instance.event_log_storage.get_asset_check_execution_history(PLAUSIBLE, limit=10)) == 1

    change_state(lake, "landmarks", [other], digest=bytes(16))
    assert report_versions(instance, lake, small, checked=True) == 1
    assert told(instance) == (False, [SHARD], 2), "another shard passed, the failed one was looked at again"
    change_values(lake, "landmarks_68", shifted(-FAR), [bad])
    change_state(lake, "landmarks", [other], digest=bytes(15) + b"1")
    assert report_versions(instance, lake, small, checked=True) == 1
    assert told(instance) == (True, [], 2)


def told(instance: dg.DagsterInstance) -> tuple[bool, Any, Any]:
    """Whether the newest outcome passed, which shards failed, and how many were looked at."""
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([PLAUSIBLE])[PLAUSIBLE]
    assert record.evaluation
    assert record.partition is None
    figures = record.evaluation.metadata
    return record.evaluation.passed, figures["failed_shards"].value, figures["shards"].value


def test_any_check_may_be_run_alone_but_row_accounting(graph) -> None:
    specs = {spec.key: spec for item in build_checks(graph) for spec in item.check_specs}
    declared = {(stage, check.name) for stage in ("faces", *graph.names) for check in checks_of(graph, stage)}
    assert {(key.asset_key.to_user_string(), key.name) for key in specs} == {
        key for key in declared if key[1] != "rows_accounted"
    }
    assert all(item.can_subset for item in build_checks(graph))
    for spec in specs.values():
        assert spec.description
        assert ("Not blocking" not in spec.description) == spec.blocking
