"""The short form of `make fuzz`: every family of every format, the bombs that are quick, the whole tree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resources.photos.reasons import Reason

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(900)
SET_BY_INGEST = {
    *(Reason.EMPTY, Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.UNDECODABLE, Reason.ANIMATED),
    *(Reason.TOO_LARGE, Reason.TOO_SMALL, Reason.TOO_SLOW, Reason.UNREADABLE, Reason.DUPLICATE_ID),
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `run.py --short` found."""
    result = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    command = [sys.executable, str(HERE / "run.py"), "--short", "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.exists(), done.stderr
    return {**json.loads(result.read_text(encoding="utf-8")), "exit": done.returncode}


def test_nothing_crashes_or_hangs_and_every_file_has_a_right_fate(short_run: dict[str, Any]) -> None:
    wrong = {f"{line['format']} {line['family']}": line["wrong"] for line in short_run["lines"]}
    assert {name: sentences for name, sentences in wrong.items() if sentences} == {}
    assert (short_run["crashes"], short_run["hangs"], short_run["exit"]) == (0, 0, 0)


def test_every_file_is_accounted_for(short_run: dict[str, Any]) -> None:
    for line in short_run["lines"]:
        fates = (line["ok"], sum(line["quarantined"].values()), line["skipped"], line["left_out"])
        assert sum(fates) == line["files"] > 0
    assert sum(line["files"] for line in short_run["lines"]) == short_run["files"] > 450
    assert set(short_run["quarantined"]) >= SET_BY_INGEST
    assert Reason.DECODER_DIED.value not in short_run["quarantined"]


def test_memory_and_time_stay_bounded(short_run: dict[str, Any]) -> None:
    assert short_run["decoders_stopped"] >= 1  # under tight limits somebody had to go
    assert max(short_run["peak_mib"].values()) < 1024
    assert short_run["slowest"]["seconds"] < 60


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of this folder can be imported by name."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.mark.usefixtures("modules")
def test_the_same_seed_makes_the_same_files() -> None:
    from random import Random

    import formats
    import mutations

    photos = formats.seeds()
    for image_format, family in (("JPEG", "noise"), ("PNG", "coded_data"), ("WEBP", "metadata_garbage")):
        make = mutations.FAMILIES[family].make
        first, second, third = (
            make(Random(seed), image_format, photos[image_format][0]) for seed in ("a", "a", "b")
        )
        assert first == second != third


@pytest.mark.usefixtures("modules")
def test_the_judge_sees_a_lost_file_a_wrong_fate_and_a_stranger(tmp_path: Path) -> None:
    from run import Made, Run

    allowed = frozenset(("ok",))
    made = [Made(tmp_path / name, "any", "judged", allowed) for name in ("good", "lost", "bad", "named")]
    answer = {
        "rows": {str(tmp_path / "good"): "ok", str(tmp_path / "bad"): "too_slow", "stranger": "ok"},
        "skipped": [f"{tmp_path}/named: neither a file nor a folder"],
        "again": {"added": 0, "replaced": 1, "quarantined": {}},
    }
    run = Run(tmp_path, short=True, seed=0)
    run._judge(made, answer)
    (line,) = run.lines.values()
    assert (line.files, line.ok, line.left_out, line.skipped, dict(line.quarantined)) == (
        *(4, 1, 1, 1),
        {"too_slow": 1},
    )
    assert [sentence.partition(":")[0] for sentence in line.wrong] == [
        *("lost", "bad", "named", "stranger"),
        "a second ingest changed rows",
    ]
    assert not run.green
