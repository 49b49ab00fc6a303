from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.worlds import WORLD_VERSION, render, sample_identities
from models.worlds.portraits import PortraitSet, parse_portraits, write_portraits

NUMBERS: dict[str, Any] = {"identities": 3, "photos": 2, "size": 64, "swap_pairs": 5, "seed": 9}


@pytest.fixture
def portraits(tmp_path: Path) -> PortraitSet:
    return write_portraits(tmp_path / "world", **NUMBERS)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_folder_looks_like_any_user_s(portraits: PortraitSet) -> None:
    root = portraits.root
    photos = sorted(str(path.relative_to(root / "photos")) for path in (root / "photos").rglob("*.jpg"))
    assert photos == [f"w00000{person}/000{photo}_01.jpg" for person in range(3) for photo in (1, 2)]
    with Image.open(root / "photos" / photos[0]) as photo:
        assert photo.format == "JPEG"
        assert photo.size == (64, 64)
    with (root / "swap_pairs.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["source", "target", "truth"]
    assert len(rows) == 5
    assert len({row["truth"] for row in rows}) == 5
    for row in rows:
        source, target = row["source"].split("/")[0], row["target"].split("/")[0]
        assert source != target
        assert row["truth"] == f"truth/{source}__{row['target'].replace('/', '_')}.png"
        for image_id in (row["source"], row["target"]):
            assert (root / "photos" / f"{image_id}.jpg").exists()
        assert (root / row["truth"]).exists()
    description = json.loads((root / "world.json").read_text())
    assert description["world_version"] == WORLD_VERSION
    assert description["seed"] == 9


def test_pictures_can_be_rendered_again_from_the_world_file(portraits: PortraitSet) -> None:
    parsed = parse_portraits(portraits.root)
    assert parsed == portraits
    pairs = list(parsed.swap_pairs)
    for pair, again in zip(pairs, parsed.render_truths(pairs), strict=True):
        np.testing.assert_array_equal(again, np.asarray(Image.open(parsed.truth_path(pair))))
    ids = list(parsed.image_ids)
    for image_id, again in zip(ids, parsed.render_photos(ids), strict=True):
        encoded = io.BytesIO()
        Image.fromarray(again).save(encoded, "JPEG", quality=95, subsampling=0)
        assert parsed.photo_path(image_id).read_bytes() == encoded.getvalue()
    # A truth is the source's person with the target photograph's attributes.
    pair = pairs[0]
    identity, _ = parsed.parameters(pair.source)
    _, attributes = parsed.parameters(pair.target)
    truth = render(identity, attributes, 64).images_NHWC[0]
    np.testing.assert_array_equal(truth, np.asarray(Image.open(parsed.truth_path(pair))))
    people = sample_identities(9, 3).values
    np.testing.assert_array_equal(identity.values[0], people[int(pair.source[1:7])])


def test_swaps_for_training_are_of_other_people_and_nothing_is_drawn_for_them(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"identities": 5, "photos": 2, "size": 32, "swap_pairs": 3, "held_out": 2}
    plain = write_portraits(tmp_path / "plain", **numbers)
    both = write_portraits(tmp_path / "both", **numbers, train_pairs=12)
    assert both.swap_pairs[:3] == plain.swap_pairs
    with (both.root / "swap_pairs.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["use"] for row in rows] == ["evaluation"] * 3 + ["training"] * 12
    people = {
        use: {row[end].split("/")[0] for row in rows if row["use"] == use for end in ("source", "target")}
        for use in ("evaluation", "training")
    }
    assert people == {"evaluation": {"w000003", "w000004"}, "training": {"w000000", "w000001", "w000002"}}
    assert all(bool(row["truth"]) == (row["use"] == "evaluation") for row in rows)
    assert len({(row["source"].split("/")[0], row["target"]) for row in rows}) == 15
    assert set(snapshot(both.root)) == set(snapshot(plain.root))
    assert parse_portraits(both.root) == both
    with pytest.raises(ValueError, match="3 identities with 2 photos give at most 12 swaps, not 13"):
        write_portraits(tmp_path / "more", **numbers, train_pairs=13)


def test_photographs_show_the_crops_asked_for(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"identities": 2, "photos": 3, "size": 16, "swap_pairs": 0}
    for crops, wanted in ((("face",), {0.0}), (("bust",), {2.0})):
        written = write_portraits(tmp_path / crops[0], crops=crops, **numbers)
        shown = {written.parameters(photo)[1].column("crop")[0] for photo in written.image_ids}
        assert shown == wanted


def test_writing_again_changes_no_byte_and_no_time(portraits: PortraitSet) -> None:
    before = snapshot(portraits.root)
    write_portraits(portraits.root, **NUMBERS)
    assert snapshot(portraits.root) == before


def test_a_replaced_photograph_stays_and_a_missing_one_returns(portraits: PortraitSet) -> None:
    before = snapshot(portraits.root)
    first, second = (portraits.photo_path(image_id) for image_id in portraits.image_ids[:2])
    first.write_bytes(b"the user's own photograph")
    second.unlink()
    truth = portraits.truth_path(portraits.swap_pairs[0])
    truth.unlink()
    write_portraits(portraits.root, **NUMBERS)
    assert first.read_bytes() == b"the user's own photograph"
    for path in (second, truth):
        assert path.read_bytes() == before[str(path.relative_to(portraits.root))][0]


def test_another_world_is_not_mixed_into_a_folder(portraits: PortraitSet) -> None:
    before = snapshot(portraits.root)
    with pytest.raises(ValueError, match="describes another world"):
        write_portraits(portraits.root, **{**NUMBERS, "seed": 10})
    assert snapshot(portraits.root) == before


def test_two_folders_with_the_same_numbers_are_the_same_bytes(portraits: PortraitSet, tmp_path: Path) -> None:
    other = write_portraits(tmp_path / "other", **NUMBERS)
    contents = [
        {name: content for name, (content, _) in snapshot(each.root).items()} for each in (portraits, other)
    ]
    assert contents[0] == contents[1]


def test_swaps_can_be_kept_to_held_out_people(tmp_path: Path) -> None:
    held_out = write_portraits(tmp_path, identities=5, photos=2, size=16, swap_pairs=12, held_out=3, seed=1)
    people = {image_id[:7] for pair in held_out.swap_pairs for image_id in (pair.source, pair.target)}
    assert people == {"w000002", "w000003", "w000004"}
    assert all(pair.source[:7] != pair.target[:7] for pair in held_out.swap_pairs)
    assert len({pair.truth for pair in held_out.swap_pairs}) == 12
    for refused in (0, 6):
        with pytest.raises(ValueError, match=f"1 to 5 people, not {refused}"):
            write_portraits(tmp_path / "none", identities=5, held_out=refused)


def test_impossible_numbers_and_damaged_files_are_refused(portraits: PortraitSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 4 swaps, not 5"):
        write_portraits(tmp_path / "few", identities=2, photos=2, size=32, swap_pairs=5)
    with pytest.raises(FileNotFoundError):
        parse_portraits(tmp_path)
    path = portraits.root / "world.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"world\.json is damaged"):
        parse_portraits(portraits.root)


def test_a_set_of_another_version_is_read_but_not_rendered(portraits: PortraitSet) -> None:
    path = portraits.root / "world.json"
    path.write_text(path.read_text().replace(f'"world_version": "{WORLD_VERSION}"', '"world_version": "0"'))
    old = parse_portraits(portraits.root)
    assert old.image_ids == portraits.image_ids
    with pytest.raises(ValueError, match="world version 0"):
        old.render_photos(list(old.image_ids[:1]))
