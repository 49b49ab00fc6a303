"""Layouts: which files are found, in what order, under which ids; odd trees neither hang nor crash."""

from __future__ import annotations

import inspect
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.photos.decoding import inspect_photo, read_photo
from resources.photos.layouts import (
    FoundPhoto,
    Layout,
    LayoutError,
    Skipped,
    detect_layout,
    scan,
)
from resources.photos.names import escape, join_parts
from resources.photos.pairs import ffhq_pairs
from resources.photos.reasons import Reason, RowError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def ids(root: Path, layout: Layout) -> list[str]:
    return [photo.image_id for photo in scan(root, layout)]


def found(root: Path, layout: Layout) -> tuple[dict[str, FoundPhoto], list[Skipped]]:
    skipped: list[Skipped] = []
    photos = list(scan(root, layout, skipped.append))
    by_name = {photo.relative: photo for photo in photos}
    assert len(by_name) == len(photos)
    assert len({photo.image_id for photo in photos}) == len(photos)
    return by_name, skipped


def test_flat_makes_everybody_a_person(tmp_path: Path) -> None:
    photos, _ = found(tree(tmp_path, "b.jpg", "a.png", "deep/er/c.jpg", "no_suffix"), "flat")
    assert [(p.identity, p.stem, p.image_id) for p in photos.values()] == [
        ("a", "a", "a/a"),
        ("b", "b", "b/b"),
        ("deep__er__c", "deep__er__c", "deep__er__c/deep__er__c"),
        ("no_suffix", "no_suffix", "no_suffix/no_suffix"),
    ]
    assert all(p.path.read_bytes() == p.relative.encode() for p in photos.values())


def test_identity_folders_join_deeper_folders(tmp_path: Path) -> None:
    names = ("ann/1.jpg", "ann/x/2.jpg", "ann/x_/3.jpg", "ann/x/_3.jpg", "bob/1.jpg", "loner.jpg")
    photos, _ = found(tree(tmp_path, *names), "identity-folders")
    assert {name: (p.identity, p.image_id) for name, p in photos.items()} == {
        "ann/1.jpg": ("ann", "ann/1"),
        "ann/x/2.jpg": ("ann", "ann/x__2"),
        "ann/x/_3.jpg": ("ann", "ann/x__%5F3"),
        "ann/x_/3.jpg": ("ann", "ann/x%5F__3"),
        "bob/1.jpg": ("bob", "bob/1"),
        "loner.jpg": ("loner", "loner/loner"),
    }
    assert all(p.problem is None for p in photos.values())


def test_vggface2_and_ffhq_pairs(tmp_path: Path) -> None:
    vgg = tree(tmp_path / "vgg", "n000002/0001_01.jpg", "n000002/0002_01.jpg", "n000010/0001_01.jpg")
    assert ids(vgg, "vggface2-hq") == ["n000002/0001_01", "n000002/0002_01", "n000010/0001_01"]
    ffhq = tree(tmp_path / "ffhq", "src/000000.jpg", "src/000001.jpg", "trg/000001.png", "trg/000000.png")
    photos = list(scan(ffhq, "ffhq-pairs"))
    assert [p.image_id for p in photos] == ["src/000000", "src/000001", "trg/000000", "trg/000001"]
    assert all(p.identity == p.image_id for p in photos)
    assert ffhq_pairs(photos) == [("src/000000", "trg/000000"), ("src/000001", "trg/000001")]
    tree(ffhq, "src/000002.jpg")
    with pytest.raises(LayoutError, match="000002"):
        ffhq_pairs(scan(ffhq, "ffhq-pairs"))


@pytest.mark.parametrize(
    ("names", "layout", "word"),
    [
        (("src/0.jpg", "trg/0.jpg"), "ffhq-pairs", "src and trg"),
        (("src/0.jpg", "target/0.jpg"), "identity-folders", "src"),
        (("n000001/0001_01.jpg", "n000002/0001_01.jpg"), "vggface2-hq", "n000001"),
        (("n000001/portrait.jpg",), "identity-folders", "n000001"),
        (("n000001/0001_01.jpg", "ann/0001_01.jpg"), "identity-folders", "ann"),
        (("ann/trip/1.jpg",), "identity-folders", "ann"),
        (("1.jpg", "2.jpg", "notes/read.txt"), "flat", "2 candidates"),
        (("list.csv",), "flat", "0 candidates"),
    ],
)
def test_auto_detects_and_says_why(tmp_path: Path, names: tuple[str, ...], layout: str, word: str) -> None:
    detected, reason = detect_layout(tree(tmp_path, *names))
    assert detected == layout
    assert word in reason
    assert [p.image_id for p in scan(tmp_path)] == ids(tmp_path, detected)


def test_layouts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "ann/1.jpg")
    for layout in ("ffhq-pairs", "vggface2-hq"):
        with pytest.raises(LayoutError, match=layout):
            scan(tmp_path, layout)
    for wrong in (tmp_path / "absent", tmp_path / "ann/1.jpg"):
        with pytest.raises(LayoutError, match="not a folder"):
            scan(wrong)


def test_candidates_are_judged_by_exclusion_only(tmp_path: Path) -> None:
    names = ("a.jpg", "b.JPEG", "c", "d.xyz", "e.pdf", "f.gif", "photo.txt.jpg")
    left_out = (".hidden.jpg", "list.CSV", "world.json", "x.npy", "x.pt", "Thumbs.db", "README", "x.md")
    inside = (".cache/a.jpg", "faces.lance/data.bin", "__MACOSX/._a.jpg")
    photos, skipped = found(tree(tmp_path, *names, *left_out, *inside), "flat")
    assert set(photos) == set(names)
    assert not skipped


def test_order_is_bytewise_and_independent_of_creation(tmp_path: Path) -> None:
    names = [
        "b/1.jpg",
        "a/2.jpg",
        "a.jpg",
        "a-/1.jpg",
        "a/10.jpg",
        "é/1.jpg",
        "Z/1.jpg",
        "a0.jpg",
        "a/b/c.jpg",
    ]
    for root, order in ((tmp_path / "x", names), (tmp_path / "y", names[::-1])):
        tree(root, *order)
        assert [p.relative for p in scan(root, "identity-folders")] == sorted(names, key=str.encode)


def test_duplicate_ids_keep_the_first_and_mark_the_later(tmp_path: Path) -> None:
    names = ("x/a.jpg", "x/a.png", "x/a.png.jpg", "x/a.webp", "x/b/c.jpg", "x/b__c.jpg", "x.jpg", "x/x.jpg")
    photos, _ = found(tree(tmp_path, *names), "identity-folders")
    assert {name: (p.image_id, p.problem) for name, p in photos.items()} == {
        "x.jpg": ("x/x", None),
        "x/a.jpg": ("x/a", None),
        "x/a.png": ("x/a.png", Reason.DUPLICATE_ID),
        "x/a.png.jpg": ("x/a.png.jpg", Reason.DUPLICATE_ID),
        "x/a.webp": ("x/a.webp", Reason.DUPLICATE_ID),
        "x/b/c.jpg": ("x/b__c", None),
        "x/b__c.jpg": ("x/b__c.jpg", Reason.DUPLICATE_ID),
        "x/x.jpg": ("x/x.jpg", Reason.DUPLICATE_ID),
    }
    flat, _ = found(tree(tmp_path / "flat", "a.jpg", "a.png"), "flat")
    assert [(p.image_id, p.identity, p.problem) for p in flat.values()] == [
        ("a/a", "a", None),
        ("a/a.png", "a", Reason.DUPLICATE_ID),
    ]


def test_links_pipes_and_sockets_neither_hang_nor_crash(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "ann/1.jpg", "outside.jpg")
    tree(tmp_path / "elsewhere", "2.jpg")
    (root / "ann/loop").symlink_to(root)
    (root / "self.jpg").symlink_to(root / "self.jpg")
    (root / "dead.jpg").symlink_to(root / "nowhere.jpg")
    (root / "linked.jpg").symlink_to(root / "outside.jpg")
    (root / "bob").symlink_to(tmp_path / "elsewhere")
    (root / "carl").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe.jpg")
    address = root / "socket.jpg"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(address))
        photos, skipped = found(root, "identity-folders")
    assert {name: p.problem for name, p in photos.items()} == {
        "ann/1.jpg": None,
        "bob/2.jpg": None,
        "dead.jpg": Reason.UNREADABLE,
        "linked.jpg": None,
        "outside.jpg": None,
        "self.jpg": Reason.UNREADABLE,
    }
    assert sorted(s.path.name for s in skipped) == ["carl", "loop", "pipe.jpg", "socket.jpg"]


def test_folders_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "ann/1.jpg", "bob/1.jpg")
    real = os.scandir

    def refusing(path: Path) -> object:
        # Permission bits do not bind the super-user, who may run this suite; the kernel's answer is the same.
        if Path(path).name == "ann":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    photos, skipped = found(tmp_path, "identity-folders")
    assert list(photos) == ["bob/1.jpg"]
    assert [(s.path.name, s.why) for s in skipped] == [("ann", "folder cannot be read: Permission denied")]


def test_names_that_are_no_utf8_get_stable_ids(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"\xff\n.jpg", b"%FF%0A.jpg", "é 100%.jpg".encode()):
        with open(folder + b"/" + name, "wb") as file:
            file.write(name)
    photos, _ = found(tmp_path, "identity-folders")
    assert [p.image_id for p in photos.values()] == [
        "caf%E9/%25FF%250A",
        "caf%E9/é 100%",
        "caf%E9/%FF%0A",
    ]
    for photo in photos.values():
        photo.image_id.encode()
        photo.relative.encode()
        assert read_photo(photo.path)
        assert photo.problem is None


@settings(max_examples=300, derandomize=True)
@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8))
def test_escapes_are_valid_and_never_collide(first: str, second: str) -> None:
    escape(first).encode()
    assert (escape(first) == escape(second)) == (first == second)


@settings(max_examples=300, derandomize=True)
@given(st.lists(st.text(alphabet="a_%5F", min_size=1, max_size=5), min_size=1, max_size=12, unique=True))
def test_nested_paths_never_collide(names: list[str]) -> None:
    paths = [(a, b) for a in names for b in names]
    assert len({join_parts(list(path)) for path in paths}) == len(paths)


def test_trees_deeper_than_the_recursion_limit_are_walked(tmp_path: Path) -> None:
    folder = tmp_path / "/".join("d" * 300)
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(b"x")
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        (photo,) = scan(tmp_path, "identity-folders")
    finally:
        sys.setrecursionlimit(usual)
    assert photo.image_id == "d/" + "__".join("d" * 299) + "__1"


def test_a_folder_of_good_and_broken_photos_adds_up(
    tmp_path: Path,
    good_photos: Mapping[str, bytes],
    broken_photos: Mapping[str, tuple[bytes, Reason]],
    write_photos: Callable[[Path, Mapping[str, bytes]], list[Path]],
) -> None:
    write_photos(tmp_path / "good", good_photos)
    write_photos(tmp_path / "broken", {name: data for name, (data, _) in broken_photos.items()})
    outcome: dict[str, Reason | None] = {}
    for photo in scan(tmp_path):
        try:
            inspect_photo(read_photo(photo.path))
            outcome[photo.relative] = None
        except RowError as error:
            outcome[photo.relative] = error.reason
    expected = {f"good/{name}": None for name in good_photos}
    assert outcome == expected | {f"broken/{name}": reason for name, (_, reason) in broken_photos.items()}
