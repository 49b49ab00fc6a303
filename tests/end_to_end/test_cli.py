"""The `orchard` command as a user types it, over a real lake with every stage computed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.lake import Lake
from resources.photos.marking import DIGITAL_SOURCE_TYPE, read_mark

ROW_STAGES = ("landmarks", "iris", "masks", "aesthetics", "identity_embedding", "condition", "latents")
STAGES = (
    *ROW_STAGES,
    "prompt_embeddings",
    "release",
    "diffface_swaps",
    "teacher",
    "pseudo_triplets",
    "triplet_scores",
    "triplets_release",
    "student",
    "swaps",
    "evaluation",
    "frontier",
    "evaluation_protocol",
)


@dataclass(frozen=True)
class Own:
    """A lake with its photographs, and two ways to call `orchard` on it: in this process, or in its own."""

    lake: Lake
    folder: Path
    here: Callable[..., subprocess.CompletedProcess[str]]
    alone: Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def own(smoke_lake, orchard_here, orchard_alone, tmp_path_factory: pytest.TempPathFactory) -> Own:
    """A copy of the finished lake that the tests of this file may change, in order."""
    copied = smoke_lake.copy_to(tmp_path_factory.mktemp("cli"))
    return Own(copied.lake, copied.folder, orchard_here, orchard_alone)


def orchard(own: Own, *arguments: str, alone: bool = False, fails: bool = False) -> str:
    settings = {
        "ORCHARD_LAKE": own.lake.uri,
        "ORCHARD_PROFILE": "smoke",
        "DAGSTER_HOME": str(Path(own.lake.uri).parent / "dagster"),
        "OMP_NUM_THREADS": "1",
    }
    done = (own.alone if alone else own.here)(arguments, settings)
    if fails:
        assert done.returncode != 0
        return done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(own: Own, *arguments: str, alone: bool = False) -> Any:
    return json.loads(orchard(own, *arguments, "--json", alone=alone))


def test_every_stage_ran_and_accounts_for_every_row(own, smoke_lake) -> None:
    status = ask(own, "status", alone=True)
    assert status["rows"] == 20
    assert list(status["stages"]) == ["faces", *STAGES]
    for name in ("faces", *ROW_STAGES):
        line = status["stages"][name]
        assert line["ok"] + line["quarantined"] + line["pending"] == 20
        assert line["pending"] == 0
    assert status["stages"]["landmarks"]["ok"] >= 19
    assert set(smoke_lake.computed) == set(STAGES)


def test_nothing_is_stale_after_a_run_and_a_second_run_computes_nothing(own) -> None:
    plan = ask(own, "plan")
    assert plan["total_stale_rows"] == 0
    assert all(
        line == {"stale_rows": 0, "waiting_rows": 0, "shards": [], "why": {}}
        for line in plan["stages"].values()
    )
    done = ask(own, "run")
    assert done["computed_rows"] == dict.fromkeys(STAGES, 0)
    assert done["seconds"] < 30


def test_a_replaced_photo_is_one_stale_row_and_costs_one_row_per_stage(own) -> None:
    photo = own.folder / "photos" / "w000001" / "0003_01.jpg"
    with Image.open(photo) as picture:
        changed = np.asarray(picture)[:, ::-1]
        Image.fromarray(np.ascontiguousarray(changed)).save(photo, quality=95)
    report = ask(own, "ingest", str(own.folder / "photos"))
    assert (report["replaced"], report["added"], report["unchanged"]) == (1, 0, 19)
    plan = ask(own, "plan")["stages"]
    assert plan["landmarks"] == {
        "stale_rows": 1,
        "waiting_rows": 0,
        "shards": ["shard-00000"],
        "why": {"input:faces": 1},
    }
    done = ask(own, "run", *ROW_STAGES)
    assert done["computed_rows"] == dict.fromkeys(ROW_STAGES, 1)


def test_touching_a_photo_is_no_change(own) -> None:
    os.utime(own.folder / "photos" / "w000002" / "0001_01.jpg")
    assert ask(own, "ingest", str(own.folder / "photos"))["replaced"] == 0
    plan = ask(own, "plan")["stages"]
    assert all(plan[name]["stale_rows"] == 0 for name in ROW_STAGES)


def test_one_shard_of_one_stage_can_be_forced(own) -> None:
    done = ask(own, "run", "iris", "--shard", "shard-00001", "--force")
    assert done["computed_rows"] == {"iris": 8}
    assert ask(own, "plan")["stages"]["condition"]["stale_rows"] == 0


def test_a_code_bump_with_equal_output_recomputes_that_stage_only(smoke_lake, tmp_path: Path) -> None:
    lake, graph = smoke_lake.copy_to(tmp_path).lake, profile("smoke").graph()
    bumped = dataclasses.replace(
        graph,
        stages=tuple(
            dataclasses.replace(stage, code_version="next") if stage.name == "masks" else stage
            for stage in graph.stages
        ),
    )
    done = run_stages(lake, bumped, bumped.names, device="cpu")
    assert done.computed_rows == {**dict.fromkeys(STAGES, 0), "masks": 20}


def test_broken_files_are_quarantined_beside_good_ones(
    tmp_path: Path, good_photos, broken_photos, write_photos, own
) -> None:
    folder = tmp_path / "mixed"
    # numbered, because two files of one stem would be a quarantine reason of its own
    good = list(good_photos.items())[:20]
    broken = list(broken_photos.items())[:20]
    write_photos(folder, {f"{place:02d}_{name}": data for place, (name, data) in enumerate(good)})
    write_photos(folder, {f"{place + 50}_{name}": data for place, (name, (data, _)) in enumerate(broken)})
    lake = dataclasses.replace(own.lake, uri=str(tmp_path / "lake"))
    fresh = dataclasses.replace(own, lake=lake)
    report = ask(fresh, "ingest", str(folder), "--layout", "flat")
    status = ask(fresh, "status")["stages"]["faces"]
    assert (status["ok"], status["quarantined"], status["pending"]) == (20, 20, 0)
    expected: dict[str, int] = {}
    for _, (_, reason) in broken:
        expected[reason.value] = expected.get(reason.value, 0) + 1
    assert status["reasons"] == expected == report["quarantined"]


def test_swap_needs_a_statement_of_consent_and_marks_its_picture(own, tmp_path: Path) -> None:
    source = str(own.folder / "photos" / "w000001" / "0001_01.jpg")
    target = str(own.folder / "photos" / "w000003" / "0002_01.jpg")
    out = tmp_path / "swapped.png"
    assert "consent" in orchard(own, "swap", source, target, "-o", str(out), fails=True)
    assert not out.exists()
    said = ask(own, "swap", source, target, "-o", str(out), "--consent", "rendered faces of nobody")
    mark = read_mark(out.read_bytes())
    assert mark is not None
    assert mark.model_id == said["model_id"]
    assert mark.consent == "rendered faces of nobody"
    assert DIGITAL_SOURCE_TYPE.encode() in out.read_bytes()
    with Image.open(out) as picture:
        assert picture.size == (160, 160)  # the photograph's own


def test_every_swap_and_triplet_in_the_lake_is_marked(own) -> None:
    for table, column in (("swaps", "swap"), ("diffface_swaps", "swap"), ("triplets", "swapped")):
        rows = own.lake.table(table).snapshot().scan([column, "source_image_id"]).to_pylist()
        assert rows
        for row in rows:
            mark = read_mark(row[column])
            assert mark is not None
            assert mark.source_image_id == row["source_image_id"]


def test_a_swap_of_a_photo_without_a_face_says_so(own, tmp_path: Path) -> None:
    empty = tmp_path / "wall.png"
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(empty)
    target = str(own.folder / "photos" / "w000003" / "0002_01.jpg")
    said = orchard(own, "swap", str(empty), target, "--consent", "a wall", fails=True)
    assert "no_face" in said
    assert "Traceback" not in said


def test_errors_are_one_line_with_a_remedy(own, tmp_path: Path) -> None:
    nowhere = dataclasses.replace(own, lake=dataclasses.replace(own.lake, uri=str(tmp_path / "nothing")))
    said = orchard(nowhere, "plan", alone=True, fails=True)
    assert "orchard ingest PATH" in said
    assert "Traceback" not in said
    assert "no stage eyebrows" in orchard(own, "run", "eyebrows", fails=True)
    assert "no profile" in orchard(own, "plan", "--profile", "huge", fails=True)


@pytest.mark.parametrize(
    "command", ["ingest", "plan", "status", "run", "swap", "report", "doctor", "ui", "demo"]
)
def test_every_command_has_help_worth_reading(own, command: str) -> None:
    text = orchard(own, command, "--help")
    assert "--lake" in text
    assert len(text.split()) > 60
