"""The cheap look at a source folder: what it sees, when it believes it, and what it costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.automation import folder_watch
from pipeline.automation.folder_watch import FolderState, Verdict, observe

NOW = 2_000_000_000 * 10**9
"""Later than every modification time here."""

U, W, C = Verdict.UNCHANGED, Verdict.UNSETTLED, Verdict.CHANGED


class Watcher:
    """Looks at one folder again and again; its memory goes through JSON, as in the sensor's cursor."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = FolderState()

    def look(self) -> Verdict:
        self.state, verdict = observe(self.root, self.state, NOW)
        self.state = FolderState.model_validate_json(self.state.model_dump_json())
        return verdict

    def settled(self) -> Watcher:
        assert [self.look() for _ in range(4)] == [W, C, U, U]
        return self


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for person in range(4):
        for photo in range(5):
            path = tmp_path / f"p{person}" / f"{photo}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes([person, photo]))
    return tmp_path


def rewrite_in_place(path: Path) -> None:
    """Other bytes of the same length, in the same file: its folder shows nothing."""
    before = path.stat()
    with path.open("r+b") as handle:
        handle.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**6))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "p1" / "new.jpg").write_bytes(b"new"),
        lambda root: (root / "p9").mkdir(),
        lambda root: (root / "p2" / "3.jpg").unlink(),
        lambda root: (root / "p2" / "3.jpg").rename(root / "p2" / "moved.jpg"),
        lambda root: os.replace(root / "p0" / "0.jpg", root / "p3" / "0.jpg"),
        lambda root: rewrite_in_place(root / "p3" / "4.jpg"),
    ],
    ids=["new file", "new folder", "removed", "renamed", "replaced", "rewritten in place"],
)
def test_every_kind_of_change_is_seen_once(root: Path, change) -> None:
    watcher = Watcher(root).settled()
    change(root)
    assert [watcher.look() for _ in range(4)] == [W, C, U, U]


def test_a_file_that_is_still_being_copied_is_waited_for(root: Path) -> None:
    watcher = Watcher(root).settled()
    with (root / "p1" / "long.jpg").open("wb", buffering=0) as copy:
        for _ in range(4):
            copy.write(b"more of it")
            assert watcher.look() is W
    assert [watcher.look() for _ in range(3)] == [C, U, U]


def test_a_change_that_is_taken_back_is_none(root: Path) -> None:
    watcher = Watcher(root).settled()
    times = (root / "p1").stat()
    (root / "p1" / "short.jpg").write_bytes(b"gone soon")
    assert watcher.look() is W
    (root / "p1" / "short.jpg").unlink()
    os.utime(root / "p1", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert watcher.look() is U


def test_what_an_ingest_never_reads_changes_nothing(root: Path) -> None:
    (root / "faces.lance").mkdir()
    (root / ".thumbnails").mkdir()
    watcher = Watcher(root).settled()
    (root / "faces.lance" / "data").write_bytes(b"a commit")
    (root / ".thumbnails" / "1.jpg").write_bytes(b"a cache")
    assert watcher.look() is U


def test_links_that_loop_end(root: Path) -> None:
    (root / "p1" / "again").symlink_to(root, target_is_directory=True)
    (root / "p1" / "itself").symlink_to(root / "p1" / "itself")
    Watcher(root).settled()


def test_a_large_folder_is_looked_at_in_turns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look touches a part of the files; a rewrite in place is seen within one turn over all of them."""
    monkeypatch.setattr(folder_watch, "FILES_PER_LOOK", 5)
    touched: list[str] = []
    digest = folder_watch._file_digest

    def counted(path: str) -> int:
        touched.append(path)
        return digest(path)

    monkeypatch.setattr(folder_watch, "_file_digest", counted)
    watcher = Watcher(root)
    assert [watcher.look() for _ in range(2)] == [W, C]
    turn = folder_watch.SLICES // (folder_watch.SLICES * 5 // 20)
    assert {watcher.look() for _ in range(2 * turn)} == {U}
    touched.clear()
    assert {watcher.look() for _ in range(turn)} == {U}
    assert len(touched) == len(set(touched)) == 20, "every file once in a turn"
    rewrite_in_place(root / "p3" / "4.jpg")
    verdicts = [watcher.look() for _ in range(turn + 1)]
    assert verdicts.count(C) == 1
    assert verdicts[verdicts.index(C) - 1] is W
    assert {watcher.look() for _ in range(turn)} == {U}
