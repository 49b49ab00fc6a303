"""`orchard gc` and `orchard repair` as people call them, and what other commands say of a damaged lake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli


def orchard(*arguments: str) -> dict:
    done = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_gc_says_first_what_it_then_frees(smoke_lake, tmp_path: Path) -> None:
    lake = smoke_lake.copy_to(tmp_path).lake
    everything = ["gc", "--lake", lake.uri, "--older-than", "0", "--safety-age", "0"]
    announced = orchard(*everything, "--dry-run")
    assert announced["bytes"] > 0
    before = lake.faces.snapshot().scan(["image_id", "latent_target"]).to_pylist()
    assert orchard(*everything)["waste"] == announced["waste"]
    assert orchard(*everything)["bytes"] == 0
    assert lake.faces.snapshot().scan(["image_id", "latent_target"]).to_pylist() == before
    release = lake.current_artifact("release")
    assert release is not None
    assert lake.faces.snapshot(release.metadata["tag"]).count() == 20
    assert orchard("plan", "--lake", lake.uri, "--profile", "smoke")["total_stale_rows"] == 0


def test_a_damaged_lake_is_told_in_one_line_found_and_mended(
    smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = smoke_lake.copy_to(tmp_path).lake
    options = ["--lake", lake.uri, "--profile", "smoke"]
    assert orchard("repair", "--check", *options)["sound"]
    fragment = lake.swaps.snapshot().dataset.get_fragments()[0]
    (Path(lake.swaps.uri) / "data" / fragment.data_files()[-1].path).write_bytes(b"nothing of the kind")

    monkeypatch.setattr(sys, "argv", ["orchard", "status", *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("orchard: a file of")
    assert "`orchard repair`" in told

    assert CliRunner().invoke(cli.app, ["repair", "--check", *options]).exit_code == 1
    report = orchard("repair", *options)
    assert [item["columns"] for item in report["damage"]] == [["swap", "swaps_state"]]
    plan = orchard("plan", *options)["stages"]["swaps"]
    assert plan["stale_rows"] == fragment.physical_rows
    assert plan["why"] == {"never_computed": fragment.physical_rows}
