"""The short form of `make crash`: one kill at every kind of point, for every kind of stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from resources.lake.consent import Consent
from resources.lake.failpoints import POINTS
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import FACES_SCHEMA

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def short_matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `matrix.py --short` found."""
    result = tmp_path_factory.mktemp("crash") / "crash.json"
    command = [sys.executable, str(HERE / "matrix.py"), "--short", "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.exists(), done.stderr
    return {**json.loads(result.read_text(encoding="utf-8")), "exit": done.returncode}


def test_every_kill_is_survived_whole(short_matrix: dict[str, Any]) -> None:
    wrong = {f"{line['kind']} {line['point']}": line["wrong"] for line in short_matrix["lines"]}
    assert {name: sentences for name, sentences in wrong.items() if sentences} == {}
    assert short_matrix["exit"] == 0
    assert short_matrix["kills"] == short_matrix["whole"] == len(short_matrix["lines"])


OUTSIDE = {"mid_clip"}
"""Points beside the lake: tests/end_to_end/test_swap_clip.py kills there."""


def test_somebody_dies_at_every_point(short_matrix: dict[str, Any]) -> None:
    kills = short_matrix["kills_by_point"]
    assert kills.keys() == POINTS.keys()
    assert {point for point, count in kills.items() if not count} == OUTSIDE


def test_training_repeats_less_than_it_saves(short_matrix: dict[str, Any]) -> None:
    steps = {
        line["point"]: line["repeated_steps"] for line in short_matrix["lines"] if "mid_" in line["point"]
    }
    assert 0 < steps["mid_checkpoint"] <= 3
    assert steps["mid_training"] <= 3
    finished = [item for item in short_matrix["lines"] if (item["kind"], item["point"]) == TEACHER_REGISTERED]
    assert [item["repeated_steps"] for item in finished] == [0]


TEACHER_REGISTERED = ("teacher", "after_commit")


@pytest.fixture
def small_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A case with sixteen photographs in three shards; `verify` can be imported."""
    monkeypatch.syspath_prepend(str(HERE))
    from small_orchard import write_photos

    write_photos(tmp_path / "photos")
    lake = Lake.open(tmp_path / "case" / "lake", create=True)
    ingest(lake, tmp_path / "photos", shard_size=6, consent=Consent.SYNTHETIC)
    return tmp_path / "case"


def test_the_judge_sees_what_a_kill_could_do(small_lake: Path) -> None:
    """A lost row, a half row and a stray file are all told; so is nothing at all."""
    from verify import differences, leftovers, read_content

    whole = read_content(small_lake)
    assert differences(whole, read_content(small_lake)) == []
    assert leftovers(small_lake) == []
    lake = Lake.open(small_lake / "lake")
    row = lake.faces.snapshot().find(["p1/00"], FACES_SCHEMA.names)["p1/00"]
    lake.faces.replace(pa.Table.from_pylist([{**row, "image": None}], schema=FACES_SCHEMA))
    lake.faces.delete(["p0/00"])
    said = differences(whole, read_content(small_lake))
    assert said[:2] == ["faces: 1 rows lost, e.g. p0/00", "faces: p1/00 differs in image"]
    assert all("shard digests differ" in sentence for sentence in said[2:])
    shutil.copy(
        next((small_lake / "lake/faces.lance/data").iterdir()), small_lake / "lake/faces.lance/data/x"
    )
    assert leftovers(small_lake) == ["faces.lance/data/x"]


def test_the_judge_counts_what_housekeeping_leaves(small_lake: Path) -> None:
    """What it takes away is not counted, what it overlooks is."""
    from verify import files_after_housekeeping

    whole = files_after_housekeeping(small_lake)
    assert whole["faces.lance/data/*.lance"] == 3
    lake = small_lake / "lake"
    for name in ("faces.lance/data/0.lance", "faces.lance/_deletions/0-1-2.arrow", "releases/x.unfinished"):
        (lake / name).parent.mkdir(exist_ok=True)
        (lake / name).write_bytes(b"left by a kill")
    (lake / "checkpoints/.unfinished-1-ab").mkdir(parents=True)
    (lake / "checkpoints/.unfinished-1-ab/adapter.safetensors").write_bytes(b"half")
    assert files_after_housekeeping(small_lake) == whole
    assert list((lake / "checkpoints").iterdir()) == []
    (lake / "faces.lance/data/unknown.part").write_bytes(b"of no kind that housekeeping knows")
    assert files_after_housekeeping(small_lake) - whole == {"faces.lance/data/*.part": 1}


def test_the_judge_sees_a_row_that_came_twice(small_lake: Path) -> None:
    from verify import read_content

    lake = Lake.open(small_lake / "lake")
    row = lake.faces.snapshot().find(["p1/00"], FACES_SCHEMA.names)["p1/00"]
    lake.faces.append(pa.Table.from_pylist([row], schema=FACES_SCHEMA))
    with pytest.raises(ValueError, match="17 rows, 16 keys, 17 row ids"):
        read_content(small_lake)
