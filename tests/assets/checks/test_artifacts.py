"""Checks of what stages make once, and the command that runs all checks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from assets.swap_methods import methods_of
from pipeline import cli
from pipeline.profiles import profile
from resources.lake.ingest import ingest
from resources.lake.lake import Lake


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
    damage.values("landmarks_68", lambda points: points + 4000, keys[:1])
    code, found = orchard_check(lake, "landmarks", "--shard", "shard-00001")
    assert (code, found["errors"]) == (1, 1)
    [failed] = [run for run in found["checks"] if not run["passed"]]
    assert (failed["check"], failed["shard"]) == ("landmarks_plausible", "shard-00001")
    assert not failed["blocking"]
    assert keys[0] in failed["message"]
    assert orchard_check(lake, "landmarks", "--shard", "shard-00000")[0] == 0
    refused = " ".join(orchard_check(lake, "--shard", "nowhere")[1].split())
    assert "no shard nowhere; there are: " in refused
    assert " shard-00000," in refused


def test_shards_without_results_are_passed_over(tmp_path: Path, smoke_lake) -> None:
    empty = Lake.open(tmp_path / "new", create=True)
    ingest(empty, smoke_lake.folder / "photos", shard_size=8)
    code, found = orchard_check(empty)
    assert code == 0
    assert {run["stage"] for run in found["checks"]} == {"faces"}
