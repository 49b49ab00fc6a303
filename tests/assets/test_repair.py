"""`orchard repair`: files damaged on purpose; results are computed again, photographs read again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.planner import Planner
from assets.stage import RowStage, StageGraph
from pipeline.commands.repair import column_groups
from resources.lake.commit import commit_group
from resources.lake.damage import file_columns
from resources.lake.errors import LakeDamaged, LakeError
from resources.lake.lake import Lake
from resources.lake.purge import purge_rows
from resources.lake.repair import RepairReport, repair


def mend(lake: Lake, graph: StageGraph, **options: bool) -> RepairReport:
    return repair(lake, column_groups(graph), say=lambda text: None, **options)


def data_file(lake: Lake, column: str, shard: str = "shard-00001") -> Path:
    """The newest data file that holds a column of a shard."""
    snapshot = lake.faces.snapshot()
    for fragment in snapshot.dataset.get_fragments():
        if snapshot.fragment_columns(fragment.fragment_id, ["shard"])["shard"][0].as_py() == shard:
            for item, columns in zip(fragment.data_files(), file_columns(snapshot, fragment), strict=True):
                if column in columns:
                    return Path(lake.faces.uri) / "data" / item.path
    raise AssertionError(f"no file of {shard} holds {column}")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x5a" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rows(lake: Lake) -> dict[str, dict]:
    found = lake.faces.snapshot().dataset.to_table(with_row_id=True).to_pylist()
    return {row["image_id"]: row for row in found}


def values(lake: Lake, graph: StageGraph) -> dict[str, tuple]:
    """Everything computed, and the photographs, by id."""
    names = ["image", *(column.name for stage in graph.row_stages() for column in stage.outputs)]
    return {key: tuple(row[name] for name in names) for key, row in rows(lake).items()}


@pytest.mark.parametrize("damage", [truncate, overwrite, empty, Path.unlink])
def test_a_damaged_column_group_is_computed_again_and_nothing_else(
    lake: Lake, graph: StageGraph, run_all: Callable, damage: Callable[[Path], None]
) -> None:
    run_all(lake, graph)
    before = rows(lake)
    damage(data_file(lake, "band"))
    with pytest.raises(LakeDamaged, match="orchard repair"):
        run_all(lake, graph)
    report = mend(lake, graph)
    assert [(item.kind, item.table, item.columns) for item in report.damage] == [
        ("group", "faces", ("band", "band_state"))
    ]
    assert len(report.done) == 1
    assert report.todo == []
    assert run_all(lake, graph) == {"brightness": 0, "band": 4, "caption": 0, "total": 0}
    assert rows(lake) == before
    assert mend(lake, graph).sound


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_lost_rows_are_ingested_again(
    lake: Lake, graph: StageGraph, run_all: Callable, damage: Callable[[Path], None]
) -> None:
    run_all(lake, graph)
    before = values(lake, graph)
    damage(data_file(lake, "image"))
    report = mend(lake, graph)
    assert [(item.kind, item.rows) for item in report.damage] == [("rows", 4)]
    assert any("consent" in text for text in report.todo)
    computed = run_all(lake, graph)
    assert (computed["brightness"], computed["band"], computed["caption"]) == (4, 4, 4)
    assert values(lake, graph) == before
    consents = {row["image_id"]: row["consent"] for row in rows(lake).values()}
    assert sorted(consents.values()) == ["synthetic"] * 8 + ["unknown"] * 4
    assert mend(lake, graph).sound


def flip_in_photograph(lake: Lake, image_id: str) -> None:
    """Change one byte of a stored photograph, where Lance itself notices nothing."""
    image = rows(lake)[image_id]["image"]
    path = data_file(lake, "image")
    data = bytearray(path.read_bytes())
    place = data.index(image) + len(image) // 2
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_a_photograph_with_one_changed_byte_is_read_again_from_its_source(
    lake: Lake, graph: StageGraph, run_all: Callable
) -> None:
    run_all(lake, graph)
    before, values_before = rows(lake), values(lake, graph)
    flip_in_photograph(lake, "p1/02")
    report = mend(lake, graph)
    assert [(item.kind, item.keys) for item in report.damage] == [("photographs", ("p1/02",))]
    assert rows(lake) == before
    assert run_all(lake, graph) == dict.fromkeys(graph.names, 0)
    assert values(lake, graph) == values_before


def test_a_damaged_photograph_without_source_is_quarantined(
    lake: Lake, graph: StageGraph, run_all: Callable, photo_root: Path
) -> None:
    run_all(lake, graph)
    flip_in_photograph(lake, "p1/02")
    (photo_root / "p1" / "02.png").unlink()
    report = mend(lake, graph)
    assert "p1/02" in report.todo[0]
    assert rows(lake)["p1/02"]["faces_state"]["reason"] == "unreadable"
    run_all(lake, graph)
    assert rows(lake)["p1/02"]["brightness_state"]["reason"] == "upstream"
    assert mend(lake, graph).sound


def test_one_damaged_group_in_a_file_that_holds_them_all(
    lake: Lake, graph: StageGraph, run_all: Callable
) -> None:
    """After a purge a fragment is one wide file; emptying its columns leaves the photographs alone."""
    run_all(lake, graph)
    purge_rows(lake.faces, ["image_id"], ["p1/03"])
    assert data_file(lake, "band") == data_file(lake, "image")
    snapshot = lake.faces.snapshot()
    band = graph["band"]
    assert isinstance(band, RowStage)
    address = snapshot.scan(["image_id"], shard="shard-00001")["_rowaddr"][0].as_py()
    group = snapshot.fragment_columns(address >> 32, [field.name for field in band.group_fields])
    commit_group(snapshot, address >> 32, group.drop_columns(["_rowaddr"]))
    truncate(data_file(lake, "band"))
    assert [item.columns for item in mend(lake, graph).damage] == [("band", "band_state")]
    assert run_all(lake, graph)["band"] == 3
    assert mend(lake, graph).sound


def test_an_unreadable_newest_version_is_put_aside(lake: Lake, graph: StageGraph, run_all: Callable) -> None:
    run_all(lake, graph)
    before = values(lake, graph)
    newest = sorted((Path(lake.faces.uri) / "_versions").glob("*.manifest"))[0]
    truncate(newest)
    with pytest.raises(LakeDamaged, match="orchard repair"):
        Lake.open(lake.uri)
    assert not mend(lake, graph, check_only=True).sound
    report = mend(lake, graph)
    assert len(report.versions) == 1
    assert run_all(Lake.open(lake.uri), graph)["caption"] == 4
    assert values(lake, graph) == before


def test_a_check_changes_nothing(lake: Lake, graph: StageGraph, run_all: Callable) -> None:
    run_all(lake, graph)
    truncate(data_file(lake, "band"))
    version = lake.faces.snapshot().version
    report = mend(lake, graph, check_only=True)
    assert [item.kind for item in report.damage] == ["group"]
    assert lake.faces.snapshot().version == version


def test_a_sound_lake_is_left_as_it_is(lake: Lake, graph: StageGraph, run_all: Callable) -> None:
    run_all(lake, graph)
    version = lake.faces.snapshot().version
    assert mend(lake, graph).sound
    assert lake.faces.snapshot().version == version
    assert not Planner(lake, graph).artifact("total").stale


def test_no_readable_version_at_all_is_told(lake: Lake, graph: StageGraph) -> None:
    for path in (Path(lake.faces.uri) / "_versions").glob("*.manifest"):
        empty(path)
    with pytest.raises(LakeError, match="no version of"):
        mend(lake, graph)


def test_damaged_checkpoints_and_lists_make_their_stage_stale(smoke_lake, tmp_path: Path) -> None:
    from pipeline.profiles import profile

    lake = smoke_lake.copy_to(tmp_path).lake
    graph = profile("smoke").graph()
    teacher, release = lake.current_artifact("teacher"), lake.current_artifact("release")
    assert mend(lake, graph).sound
    weights = next((Path(lake.uri) / teacher.location).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"nope")
    report = mend(lake, graph)
    assert [item.location for item in report.files] == [teacher.location]
    assert Planner(lake, graph).artifact("teacher").stale
    assert not Planner(lake, graph).artifact("release").stale
    assert not weights.exists()
    shutil.rmtree(Path(lake.uri) / "releases")
    mend(lake, graph)
    assert Planner(lake, graph).artifact("release").stale
    assert lake.current_artifact("release").digest == release.digest
