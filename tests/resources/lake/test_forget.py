"""Forgetting on a small lake: broken off at every step and repeated, replaced photographs, shards kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from resources.lake import forget as forget_module
from resources.lake import purge
from resources.lake.errors import LakeError
from resources.lake.forget import forget
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.removals import read_removals


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def holds(lake: Lake, piece: bytes) -> bool:
    """Whether any file under the lake holds these bytes."""
    return any(piece in path.read_bytes() for path in Path(lake.uri).rglob("*") if path.is_file())


def piece_of(path: Path) -> bytes:
    data = path.read_bytes()
    return data[len(data) // 2 : len(data) // 2 + 32]


def shards(lake: Lake) -> dict[str, str]:
    rows = lake.faces.snapshot().scan(["image_id", "shard"]).to_pylist()
    return {row["image_id"]: row["shard"] for row in rows}


def test_shards_stay_whole_fragments_of_their_own(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree, shard_size=3)
    before = shards(lake)
    ids = {row["image_id"]: row["_rowid"] for row in lake.faces.snapshot().scan(["image_id"]).to_pylist()}
    report = forget(lake, image_ids=["p0/01", "p0/03", "p1/02"])
    assert report.tables["faces"].fragments == 3
    gone = {"p0/01", "p0/03", "p1/02"}
    assert shards(lake) == {key: shard for key, shard in before.items() if key not in gone}
    snapshot = lake.faces.snapshot()
    for fragment in snapshot.dataset.get_fragments():
        values = snapshot.fragment_columns(fragment.fragment_id, ["shard"])["shard"].to_pylist()
        assert len(set(values)) == 1
        assert fragment.num_deletions == 0
    after = {row["image_id"]: row["_rowid"] for row in snapshot.scan(["image_id"]).to_pylist()}
    assert after == {key: value for key, value in ids.items() if key not in gone}
    snapshot.dataset.validate()


@pytest.mark.parametrize("shard_size", [4, 12])
def test_what_a_photograph_used_to_be_is_forgotten_too(lake: Lake, photo_tree: Path, shard_size: int) -> None:
    ingest(lake, photo_tree, shard_size=shard_size)
    path, other = photo_tree / "p1" / "02.jpg", photo_tree / "p2" / "00.jpg"
    old = piece_of(path)
    lake.faces.tag("before", lake.faces.snapshot().version)
    path.write_bytes(other.read_bytes()[:-2] + b"\xff\xd9 changed")
    ingest(lake, photo_tree)
    assert holds(lake, old)
    report = forget(lake, image_ids=["p1/02"])
    assert report.tables["faces"].dropped_tags == ["before"]
    assert not holds(lake, old)
    assert holds(lake, piece_of(photo_tree / "p1" / "01.jpg"))
    # neither the new file nor the old one, under whatever name, comes back
    assert len(read_removals(lake).hashes) == 2
    assert ingest(lake, photo_tree).added == 0


def test_a_tag_whose_version_never_held_them_stays(lake: Lake, photo_tree: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    (photo_tree / "p2").rename(later)
    ingest(lake, photo_tree, shard_size=4)
    version = lake.faces.snapshot().version
    lake.faces.tag("early", version)
    later.rename(photo_tree / "p2")
    ingest(lake, photo_tree, shard_size=4)
    report = forget(lake, identities=["p2"])
    assert report.tables["faces"].dropped_tags == []
    assert len(lake.faces.snapshot("early").scan(["image"])) == 8
    assert not holds(lake, piece_of(photo_tree / "p2" / "03.jpg"))


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (forget_module, "mark_tainted"),
        (forget_module, "purge_rows"),
        (purge, "_rewrite"),
        (purge, "tagged_versions"),
        (purge, "drop_versions"),
        (purge, "unreferenced_files"),
        (forget_module, "_rewrite_lists"),
    ],
)
def test_broken_off_anywhere_a_second_call_completes_it(
    lake: Lake, photo_tree: Path, monkeypatch: pytest.MonkeyPatch, module, step: str
) -> None:
    ingest(lake, photo_tree, shard_size=4)
    lake.faces.tag("release", lake.faces.snapshot().version)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, step, die)
        with pytest.raises(Killed):
            forget(lake, identities=["p1"])
    forget(lake, identities=["p1"])
    assert Counter(key.split("/")[0] for key in shards(lake)) == {"p0": 4, "p2": 4}
    for shot in range(4):
        assert not holds(lake, piece_of(photo_tree / "p1" / f"{shot:02d}.jpg"))
    assert lake.faces.snapshot().dataset.tags.list() == {}
    assert (ingest(lake, photo_tree).added, len(shards(lake))) == (0, 8)


def test_one_unknown_name_among_known_ones_changes_nothing(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    with pytest.raises(LakeError, match="of or named p7"):
        forget(lake, identities=["p0", "p7"])
    assert len(shards(lake)) == 12
    assert not read_removals(lake).hashes


def test_a_forgotten_file_under_another_name_is_kept_out(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    forget(lake, image_ids=["p0/00"])
    (photo_tree / "p2" / "copy.jpg").write_bytes((photo_tree / "p0" / "00.jpg").read_bytes())
    report = ingest(lake, photo_tree)
    assert (report.added, len(report.skipped)) == (0, 2)
    assert ingest(lake, photo_tree, un_forget=True).added == 2
