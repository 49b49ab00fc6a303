"""The bench of scale, in miniature: every part but the daemon, and a page that says what its file says.

The daemon's part is run by tests/end_to_end/test_postgres.py, against `orchard ui`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from benches import measuring, scale
from benches.scale_growth import growth, outlook
from benches.scale_page import BEGIN, END, PAGE, page_with

ROWS, SHARDS = 300, 6
WITHOUT_DAEMON = [name for name in scale.PARTS if name not in ("daemon", "gc")]
HISTORY = {"runs": 0, "events": 10, "history_bytes": 1000, "output_bytes": 0}
DAEMON: dict[str, Any] = {
    "shards": 2,
    "runs": 2,
    "start_seconds": 20.0,
    "seconds": 10.0,
    "seconds_per_shard": 5.0,
    "median_seconds_of_a_run": 4.0,
    "cpu_seconds_of_all_processes": 30.0,
    "peak_rss_mb_of_all_processes": 1200,
    "all_shards_seconds_extrapolated": 30,
    "children_cpu_seconds": 0.0,
    "history_before": HISTORY,
    "history_after": {"runs": 2, "events": 108, "history_bytes": 401_000, "output_bytes": 6000},
}
"""What the daemon's part finds."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale") / "work"


@pytest.fixture(scope="module")
def parts(place: Path) -> dict[str, Any]:
    wanted = {"rows": ROWS, "shards": SHARDS, "daemon_shards": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", "set by the bench, and given back here")
        patch.setattr(scale, "measured", measuring._measure)  # in this process: eleven starts take a minute
        scale.do_parts(place, wanted, WITHOUT_DAEMON[:3])
        done = scale.do_parts(place, wanted, WITHOUT_DAEMON[3:])
        done["daemon"] = {**done["plan"], "found": DAEMON}
        (place / "parts.json").write_text(json.dumps(done), encoding="utf-8")
        return scale.do_parts(place, wanted, None)


def test_every_part_does_what_it_measures(parts: dict[str, Any]) -> None:
    found = {name: part["found"] for name, part in parts.items()}
    assert list(scale.PARTS) == [name for name in scale.PARTS if name in found]
    assert found["ingest"] | {"children_cpu_seconds": 0} == {
        "added": ROWS,
        "unchanged": 0,
        "quarantined": 0,
        "children_cpu_seconds": 0,
    }
    assert parts["ingest"]["found"]["children_cpu_seconds"] > 0, "the child that inspects photographs"
    assert parts["ingest"]["lake"]["fragments"] == SHARDS
    assert found["stages"]["computed"] == {"aesthetics": ROWS, "identity_embedding": ROWS}
    assert parts["stages"]["lake"]["versions"] - parts["ingest"]["lake"]["versions"] == 2 * SHARDS
    assert parts["stages"]["lake"]["files_of_the_newest_version"] == 3 * SHARDS
    assert found["release"]["computed"] == {"release": 1}
    assert found["report"]["results"] == 3 * SHARDS + 1
    assert found["report"]["events"] > 3 * SHARDS
    assert found["plan"]["stale"] == {}
    assert (found["refresh"]["launches"], found["refresh"]["events"]) == (0, 0)
    assert found["refresh"]["discovered"] == {"unchanged": ROWS, "replaced": 0, "added": 0}
    assert found["one_changed"]["discovered"]["replaced"] == 1
    assert found["one_changed"]["launches"] == 1
    assert found["one_changed"]["computed"] == {"aesthetics": 1, "identity_embedding": 1, "release": 1}
    assert found["code_bump"]["computed"] == {"aesthetics": ROWS, "identity_embedding": 0, "release": 0}
    assert found["code_bump"]["left"] == {}
    assert found["gc"]["freed_bytes"] > 0
    assert parts["gc"]["lake"]["versions"] < parts["code_bump"]["lake"]["versions"]


def test_growth_and_outlook_are_the_parts_figures_in_proportion(parts: dict[str, Any]) -> None:
    sizes = parts["stages"]["lake"]
    grown = growth(parts)
    assert grown["rows_per_shard"] == ROWS // SHARDS
    assert grown["commits_of_two_stages"] == 2 * SHARDS
    assert grown["dagster_events_per_run"] == 49
    assert grown["dagster_bytes_per_run"] == 200_000
    far = outlook(parts)
    assert [line["times"] for line in far] == sorted((line["times"] for line in far), reverse=True)
    values = {line["key"]: line["value"] for line in far}
    factor = 1e8 / ROWS
    assert values["backfill"] == pytest.approx(5.0 * SHARDS * factor / 86400, rel=1e-3)
    assert values["manifests"] == pytest.approx(
        SHARDS * factor**2 * sizes["newest_manifest_bytes"] / 1e9, rel=1e-3
    )


def test_parts_that_are_done_are_not_done_again(parts: dict[str, Any], place: Path) -> None:
    again = scale.do_parts(place, {"rows": ROWS, "shards": SHARDS, "daemon_shards": 2}, None)
    assert again == parts
    with pytest.raises(SystemExit, match="name another --work"):
        scale.do_parts(place, {"rows": 1, "shards": 1, "daemon_shards": 1}, None)


def test_the_daemon_is_given_our_assets_over_the_benchs_stages(
    place: Path, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHARD_LAKE", str(place / "lake"))
    from benches.scale_definitions import defs

    assets = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in assets.get_all_asset_keys()} == {
        "faces",
        "aesthetics",
        "identity_embedding",
        "release",
    }
    assert assets.get(dg.AssetKey("identity_embedding")).code_version == "2"


def test_the_page_is_what_the_result_gives() -> None:
    result = json.loads(scale.RESULT.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert page_with(text, result) == text, "run `python -m benches.scale_page`"
    worst = result["outlook_100_million"][0]
    assert (
        text.index(f"| {worst['what']} |")
        < text.index("In that order:")
        < text.index(f"**{worst['what'][:1].upper()}")
    )
    with pytest.raises(ValueError, match="lacks its marks"):
        page_with(text.replace(END, ""), result)
    assert page_with(f"{BEGIN}{END}", result).startswith(BEGIN)
