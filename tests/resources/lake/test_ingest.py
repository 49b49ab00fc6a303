from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resources.lake.consent import Consent
from resources.lake.errors import LakeError
from resources.lake.ingest import ingest, refresh_shard
from resources.lake.lake import Lake
from resources.photos.decoding import DecodeLimits


def rows(lake: Lake, *columns: str) -> dict[str, dict]:
    table = lake.faces.snapshot().dataset.to_table(columns=["image_id", *columns])
    return {row["image_id"]: row for row in table.to_pylist()}


def repaint(path: Path, value: int) -> None:
    Image.fromarray(np.full((48, 48, 3), value, np.uint8)).save(path)


def test_photos_become_rows_in_shards_of_the_size_asked_for(lake: Lake, photo_tree: Path) -> None:
    report = ingest(lake, photo_tree, shard_size=5, consent=Consent.SYNTHETIC)
    found = rows(lake, "shard", "identity", "image", "consent", "width", "faces_state")
    assert report.added == 12
    assert report.layout == "identity-folders"
    assert sorted({row["shard"] for row in found.values()}) == ["shard-00000", "shard-00001", "shard-00002"]
    shards = [row["shard"] for row in found.values()]
    assert [shards.count(f"shard-0000{index}") for index in range(3)] == [5, 5, 2]
    row = found["p1/02"]
    assert row["image"] == (photo_tree / "p1" / "02.jpg").read_bytes()
    assert (row["identity"], row["consent"], row["width"]) == ("p1", "synthetic", 48)
    assert row["faces_state"]["status"] == "ok"


def test_ingesting_the_same_tree_again_changes_nothing(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree, shard_size=5)
    version = lake.faces.snapshot().version
    report = ingest(lake, photo_tree, shard_size=5)
    assert (report.added, report.replaced, report.unchanged) == (0, 0, 12)
    assert lake.faces.snapshot().version == version


def test_touching_a_file_is_no_change(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    version = lake.faces.snapshot().version
    os.utime(photo_tree / "p0" / "00.jpg", ns=(1, 1))
    report = ingest(lake, photo_tree)
    assert (report.replaced, report.unchanged) == (0, 12)
    assert lake.faces.snapshot().version == version


def test_a_verdict_that_depends_on_the_machine_is_revised_when_the_file_is_touched(
    lake: Lake, tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "large.png"
    photo.parent.mkdir()
    Image.new("RGB", (4000, 4000)).save(photo, compress_level=1)
    ingest(lake, photo.parent, limits=DecodeLimits(max_seconds=0.02))
    state = rows(lake, "faces_state")["large/large"]["faces_state"]
    assert (state["reason"], state["detail"]) == ("too_slow", "more than 0.02 CPU seconds")
    assert ingest(lake, photo.parent).unchanged == 1
    os.utime(photo, ns=(1, 1))
    assert ingest(lake, photo.parent).replaced == 1
    assert rows(lake, "faces_state")["large/large"]["faces_state"]["status"] == "ok"


def test_a_changed_file_replaces_its_row_and_keeps_its_shard_and_row_id(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree, shard_size=5)
    before = lake.faces.snapshot().scan(["image_id", "shard"]).to_pylist()
    repaint(photo_tree / "p1" / "02.jpg", 200)
    report = ingest(lake, photo_tree, shard_size=5)
    after = lake.faces.snapshot().scan(["image_id", "shard"]).to_pylist()
    assert (report.replaced, report.unchanged, report.added) == (1, 11, 0)

    def handles(found: list[dict]) -> dict:
        return {row["image_id"]: (row["shard"], row["_rowid"]) for row in found}

    assert handles(before) == handles(after)
    assert rows(lake, "image")["p1/02"]["image"] == (photo_tree / "p1" / "02.jpg").read_bytes()


def test_new_photos_fill_the_last_shard_first(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree, shard_size=8)
    shutil.copytree(photo_tree / "p0", photo_tree / "p9")
    report = ingest(lake, photo_tree, shard_size=8)
    assert report.added == 4
    found = rows(lake, "shard")
    assert all(found[f"p9/{shot:02d}"]["shard"] == "shard-00001" for shot in range(4))


def test_a_removed_file_is_reported_and_dropped_only_with_prune(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    (photo_tree / "p2" / "03.jpg").unlink()
    report = ingest(lake, photo_tree)
    assert report.removed == ["p2/03"]
    assert len(rows(lake)) == 12
    report = ingest(lake, photo_tree, prune=True)
    assert report.pruned == 1
    assert len(rows(lake)) == 11
    assert "p2/03" not in rows(lake)


def test_a_second_root_does_not_make_the_first_look_removed(
    lake: Lake, photo_tree: Path, tmp_path: Path
) -> None:
    ingest(lake, photo_tree)
    other = tmp_path / "others"
    shutil.copytree(photo_tree / "p0", other / "q0")
    report = ingest(lake, other, prune=True)
    assert (report.added, report.removed) == (4, [])
    assert len(rows(lake)) == 16


def test_one_id_from_two_roots_is_a_conflict_that_is_told(
    lake: Lake, photo_tree: Path, tmp_path: Path
) -> None:
    ingest(lake, photo_tree)
    other = tmp_path / "others"
    shutil.copytree(photo_tree, other)
    report = ingest(lake, other)
    assert report.added == 0
    assert len(report.conflicts) == 12
    assert "p0/00" in report.conflicts[0]


def test_a_moved_folder_keeps_its_rows(lake: Lake, photo_tree: Path, tmp_path: Path) -> None:
    ingest(lake, photo_tree)
    moved = photo_tree.rename(tmp_path / "moved")
    report = ingest(lake, moved)
    assert (report.added, report.replaced, report.conflicts) == (0, 12, [])
    assert all(str(moved) in row["source"] for row in rows(lake, "source").values())


def test_consent_is_recorded_and_a_new_statement_updates_it(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    assert {row["consent"] for row in rows(lake, "consent").values()} == {"unknown"}
    ingest(lake, photo_tree, consent=Consent.SUBJECT_CONSENTED)
    assert {row["consent"] for row in rows(lake, "consent").values()} == {"subject_consented"}
    ingest(lake, photo_tree)
    assert {row["consent"] for row in rows(lake, "consent").values()} == {"subject_consented"}


def test_broken_files_are_quarantined_with_their_reason_and_stop_nothing(
    lake: Lake, photo_tree: Path
) -> None:
    (photo_tree / "p0" / "zero.jpg").touch()
    (photo_tree / "p1" / "text.png").write_text("not a picture")
    whole = (photo_tree / "p0" / "00.jpg").read_bytes()
    (photo_tree / "p2" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    report = ingest(lake, photo_tree, shard_size=4)
    assert report.quarantined == {"empty": 1, "not_an_image": 1, "truncated": 1}
    found = rows(lake, "image", "faces_state")
    assert len(found) == 15
    assert found["p2/cut"]["faces_state"]["reason"] == "truncated"
    assert found["p2/cut"]["image"] is None
    assert ingest(lake, photo_tree, shard_size=4).unchanged == 15


def test_a_broken_file_that_is_mended_becomes_ok(lake: Lake, photo_tree: Path) -> None:
    broken = photo_tree / "p0" / "zero.jpg"
    broken.touch()
    ingest(lake, photo_tree)
    repaint(broken, 90)
    assert ingest(lake, photo_tree).replaced == 1
    assert rows(lake, "faces_state")["p0/zero"]["faces_state"]["status"] == "ok"


def test_refreshing_a_shard_reads_only_what_changed(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree, shard_size=6)
    repaint(photo_tree / "p0" / "01.jpg", 30)
    (photo_tree / "p0" / "02.jpg").unlink()
    report = refresh_shard(lake, "shard-00000")
    assert (report.replaced, report.unchanged, report.removed) == (1, 4, ["p0/02"])
    assert refresh_shard(lake, "shard-00001").unchanged == 6


def test_a_second_ingest_at_the_same_time_is_refused(lake: Lake, photo_tree: Path) -> None:
    with (Path(lake.uri) / "ingest.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(LakeError, match="another ingest is running"):
            ingest(lake, photo_tree)


def test_a_root_that_is_no_folder_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="is not a folder"):
        ingest(lake, tmp_path / "nowhere")


def test_names_that_are_no_utf8_are_ingested_and_found_again(lake: Lake, photo_tree: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(photo_tree / "p0" / "00.jpg", photo_tree / "p0" / name)
    assert ingest(lake, photo_tree).added == 13
    assert ingest(lake, photo_tree).unchanged == 13
