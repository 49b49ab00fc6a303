"""`orchard plan --explain`: the first cause, in words, for a row, a shard and a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.explain import explain, print_explanation
from pipeline.options import UsageError
from resources.lake.ingest import ingest
from resources.lake.lake import Lake


def findings(lake: Lake, graph, name: str) -> dict[str, tuple[str, list[str]]]:
    return {found.stage: (found.state, found.why) for found in explain(lake, graph, name).findings}


def test_a_fresh_row_needs_no_words(lake, graph, run_all) -> None:
    run_all(lake, graph)
    found = findings(lake, graph, "p1/01")
    assert found == dict.fromkeys(("faces", "brightness", "band", "caption"), ("fresh", []))


def test_a_new_code_version_is_named_with_the_old_one(lake, graph, run_all, changed) -> None:
    run_all(lake, graph)
    found = findings(lake, changed(graph, "band", code_version="2"), "p1/01")
    assert found["band"] == ("stale", ["code_version changed: '1' then, '2' today"])
    assert found["caption"] == (
        "waiting",
        ["band is stale", "  code_version changed: '1' then, '2' today"],
    )


def test_a_replaced_photo_is_the_first_cause_of_all_that_waits(
    lake, graph, run_all, photo_root, repaint
) -> None:
    run_all(lake, graph)
    old = lake.faces.snapshot().find(["p1/01"], ["faces_state"])["p1/01"]["faces_state"]["digest"].hex()[:8]
    repaint(photo_root / "p1" / "01.png", 250)
    ingest(lake, photo_root)
    new = lake.faces.snapshot().find(["p1/01"], ["faces_state"])["p1/01"]["faces_state"]["digest"].hex()[:8]
    cause = f"input faces changed: digest {old} then, {new} today"
    found = findings(lake, graph, "p1/01")
    assert found["brightness"] == ("stale", [cause])
    assert found["caption"] == ("waiting", ["band is waiting", "  brightness is stale", f"    {cause}"])
    stage = findings(lake, graph, "caption")
    assert stage["caption"] == ("11 ok, 0 stale, 1 waiting, 0 quarantined", [])
    assert stage["row p1/01 in shard-00001"] == found["caption"]
    shard = findings(lake, graph, "shard-00001")
    assert shard["brightness"] == ("3 ok, 1 stale, 0 waiting, 0 quarantined", ["stale: input:faces (1 rows)"])
    total = findings(lake, graph, "total")
    assert total["total"] == ("waiting", ["band has 0 stale and 1 waiting rows: brightness input:faces (1)"])


def test_a_quarantined_row_is_followed_to_its_reason(lake, graph, run_all, photo_root, repaint) -> None:
    repaint(photo_root / "p1" / "02.png", 0)
    ingest(lake, photo_root)
    run_all(lake, graph)
    found = findings(lake, graph, "p1/02")
    reason = "quarantined for low_quality: brightness 0.0 (attempt 1)"
    assert found["brightness"] == ("quarantined", [reason])
    assert found["caption"][0] == "quarantined"
    assert found["caption"][1][-1].strip() == reason
    stage = findings(lake, graph, "brightness")
    assert stage["brightness"][1] == ["quarantined: low_quality (1 rows)"]
    assert stage["row p1/02 in shard-00001"] == ("quarantined", [reason])


def test_an_artifact_tells_which_input_changed(lake, graph, run_all, changed, photo_root, repaint) -> None:
    assert findings(lake, graph, "total")["total"][1][0] == "never made"
    run_all(lake, graph)
    bumped = changed(graph, "total", code_version="2")
    # the code version is part of the fingerprint, and so is told even though no row changed
    assert findings(lake, bumped, "total")["total"] == (
        "stale",
        ["code_version changed: '1' then, '2' today"],
    )
    repaint(photo_root / "p1" / "01.png", 250)
    ingest(lake, photo_root)
    run_all(lake, graph, "brightness", "band")
    state, why = findings(lake, graph, "total")["total"]
    assert state == "stale"
    assert len(why) == 1
    assert why[0].startswith("input band changed: digest ")


def test_everything_is_said_once_and_fits_one_screen(lake, graph, capsys: pytest.CaptureFixture) -> None:
    for name in ("caption", "shard-00000", "p0/00", "total"):
        print_explanation(explain(lake, graph, name))
        assert len(capsys.readouterr().out.splitlines()) <= 24


def test_a_name_that_is_nothing_is_refused(lake, graph) -> None:
    with pytest.raises(UsageError, match="no stage, shard or row is called 'nobody'"):
        explain(lake, graph, "nobody")


def test_the_command_explains_the_real_stages(tmp_path: Path, photo_root: Path) -> None:
    lake = Lake.open(tmp_path / "another", create=True)
    ingest(lake, photo_root, shard_size=4)
    arguments = ["plan", "--explain", "p0/00", "--lake", lake.uri, "--profile", "smoke"]
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    stages = {found["stage"]: found for found in told["findings"]}
    assert told["kind"] == "row of faces"
    assert stages["landmarks"] == {"stage": "landmarks", "state": "stale", "why": ["never computed"]}
    assert stages["latents"]["why"][:3] == ["never computed", "landmarks is stale", "  never computed"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "latents: stale and waiting" in shown.stdout
