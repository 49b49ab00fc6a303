"""A cheap look at a folder of photographs: has anything in it changed, and has it settled?

Every look lists the folders and compares their modification times and numbers of entries: that is how new,
removed, renamed and atomically replaced files show, without a look at any file. Files that were rewritten in
place show in size and modification time only. They are looked at in slices, so that one look at 1.5 million
files stats no more than `FILES_PER_LOOK` of them; a smaller folder is looked at whole every time.

A change counts when two looks in a row agree: a file that is still being copied grows between them.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

SLICES = 64
"""Files are spread over so many slices by a hash of their path."""

FILES_PER_LOOK = 50_000
"""How many files one look may stat, about."""

CLOCK_SKEW_NS = 5_000_000_000
"""A file server's clock may be so far behind ours."""


class Verdict(StrEnum):
    """What a look found."""

    UNCHANGED = "unchanged"
    UNSETTLED = "changed, and waited for until two looks agree"
    CHANGED = "changed"


class Pending(BaseModel):
    """A change that the next look has to confirm: digests of the folders, of new files, of slices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tree: str
    recent: int
    slices: dict[int, int]


class FolderState(BaseModel):
    """What is remembered of one folder between looks; kept as JSON in the sensor's cursor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tree: str = Field(default="", description="Digest of the folders when a change was last confirmed.")
    slices: dict[int, int] = Field(default={}, description="Sum over the files' digests of known slices.")
    pending: Pending | None = Field(default=None, description="A change that has been seen once.")
    scope: tuple[int, ...] = Field(default=(), description="Slices of the last look.")
    files: int = Field(default=-1, description="Number of files at the last look; -1 before the first.")
    confirmed_ns: int = Field(default=0, description="When a change was last confirmed.")


class _Look:
    """One walk through a folder."""

    def __init__(self, root: Path, scope: Collection[int], since_ns: int) -> None:
        self.files = 0
        self.recent = 0
        self.slices = dict.fromkeys(scope, 0)
        self._recent_left = FILES_PER_LOOK
        self._since_ns = since_ns
        tree = hashlib.blake2b(digest_size=16)
        visited: set[tuple[int, int]] = set()
        stack = [os.fspath(root)]
        while stack:
            folder = stack.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                folders, files = _listing(folder)
            except OSError as error:
                tree.update(os.fsencode(f"{folder}\0{error.errno}\n"))
                continue
            tree.update(os.fsencode(f"{folder}\0{status.st_mtime_ns}\0{len(files)}\n"))
            self.files += len(files)
            self._files(files, status.st_mtime_ns > since_ns)
            stack += sorted(folders)
        self.tree = tree.hexdigest()

    def _files(self, paths: list[str], is_recent: bool) -> None:
        """Look at those files of a folder that belong to this look's slices, or at all new ones."""
        if not self.slices and not is_recent:
            return
        for path in paths:
            slot = zlib.crc32(os.fsencode(path)) % SLICES
            wanted = slot in self.slices
            if not wanted and not (is_recent and self._recent_left > 0):
                continue
            number = _file_digest(path)
            if wanted:
                self.slices[slot] ^= number
            if is_recent and self._recent_left > 0:
                self._recent_left -= 1
                self.recent ^= number


def _listing(folder: str) -> tuple[list[str], list[str]]:
    """Paths of a folder's folders and of everything else; names that an ingest never enters are left out."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not entry.name.lower().endswith(".lance"):
                    folders.append(entry.path)
            else:
                files.append(entry.path)
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that loops onto itself
        return False


def _file_digest(path: str) -> int:
    """A number for a file's path, size and modification time; what cannot be looked at has one, too."""
    try:
        status = os.stat(path)
        text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
    except OSError as error:
        text = f"{path}\0{error.errno}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=6).digest())


def observe(root: Path, state: FolderState, now_ns: int) -> tuple[FolderState, Verdict]:
    """Look at a folder once: what to remember, and whether it changed since the last confirmed change.

    A folder that was never looked at has changed.
    """
    scope = _scope(state)
    look = _Look(root, scope, state.confirmed_ns - CLOCK_SKEW_NS)
    known = {**look.slices, **state.slices}
    differing = {slot: value for slot, value in look.slices.items() if known[slot] != value}
    seen = state.model_copy(update={"slices": known, "scope": scope, "files": look.files, "pending": None})
    if look.tree == state.tree and not differing:
        return seen, Verdict.UNCHANGED
    pending = Pending(tree=look.tree, recent=look.recent, slices=differing)
    if pending != state.pending:
        return seen.model_copy(update={"pending": pending}), Verdict.UNSETTLED
    update = {"tree": look.tree, "slices": {**known, **differing}, "confirmed_ns": now_ns}
    return seen.model_copy(update=update), Verdict.CHANGED


def _scope(state: FolderState) -> tuple[int, ...]:
    """Slices of the next look: those of an unconfirmed change again, else the next ones in turn."""
    if state.files < 0:
        return ()
    if state.pending is not None and state.scope:
        return state.scope
    count = SLICES if state.files <= FILES_PER_LOOK else max(1, SLICES * FILES_PER_LOOK // state.files)
    first = (state.scope[-1] + 1) % SLICES if state.scope else 0
    return tuple((first + index) % SLICES for index in range(count))
