"""Finding photographs in a folder and naming them.

Which entries are candidates: every regular file (links to files included) whose name neither starts with a
dot nor ends in a known sidecar suffix (`SIDECAR_SUFFIXES`), nor is one of `SIDECAR_NAMES`. Nothing else is
judged by its name: a text called `photo.jpg` and a `notes.xyz` are candidates, and decoding quarantines them
as `not_an_image`. Folders that start with a dot or end in `.lance` are not entered.

Names. Files come in bytewise order of their path relative to the root. `parts` below are the folders between
root and file, `stem` is the file name without its last suffix:

| layout | identity | image id |
|---|---|---|
| `flat` | `<folders and stem joined>` | `<identity>/<identity>` |
| `identity-folders` | first folder | `<identity>/<deeper folders and stem joined>` |
| `vggface2-hq` | first folder, `n` and six digits | as above, photographs are `0001_01.jpg` |
| `apple` | as `identity-folders`, or as `ffhq-pairs` where `src` and `trg` are | as there, none deeper |
| `ffhq-pairs` | the image id: everybody is a person of their own | `src/<stem>`, `trg/<stem>` |

A file directly in the root of the last three is a person of its own, as in `flat`. How parts are joined and
which characters ids may hold says `resources.photos.names`. A file that is not nested keeps its plain stem;
where that equals a joined one (`a__b.jpg` beside `a/b.jpg`), the rule for duplicates decides.

Two files that still claim one id (`a.jpg` and `a.png`): the first in order keeps it, the later one gets the
id with its suffix (`.../a.png`) and `problem=Reason.DUPLICATE_ID`.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from resources.photos.names import escape, join_parts
from resources.photos.reasons import Reason

logger = logging.getLogger(__name__)

Layout = Literal["flat", "identity-folders", "vggface2-hq", "ffhq-pairs", "apple"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_SIDECARS = (
    "csv tsv json jsonl txt md rst html xml yaml yml toml log lock sha256 md5 xmp aae "
    "npy npz pt pth ckpt safetensors onnx pkl parquet arrow lance db zip tar gz"
)
SIDECAR_SUFFIXES = frozenset(f".{suffix}" for suffix in _SIDECARS.split())
"""Suffixes, compared in lower case, of files that data sets keep beside photographs."""

SIDECAR_NAMES = frozenset(("thumbs.db", "desktop.ini", "readme", "license", "licence", "makefile"))
"""Whole names, compared in lower case, of files that are no photographs."""

APPLE_LANDMARKS = "3dmm"
"""Folder below a person's folder in which APPLE's scripts keep drawn landmarks."""

_VGG_FOLDER = re.compile(r"n\d{6}")
_VGG_PHOTO = re.compile(r"\d{4}_\d{2}\.jpg", re.IGNORECASE)


class LayoutError(ValueError):
    """The folder cannot be read as the layout that was asked for."""


class FileStatus(NamedTuple):
    """What tells an unchanged file without reading it: its size in bytes and when it was modified."""

    size: int
    modified_ns: int

    @classmethod
    def look(cls, location: str) -> FileStatus | None:
        """Status of the file at a place, None when it cannot be looked at."""
        try:
            found = os.stat(location)
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class FoundPhoto:
    """One candidate file.

    Attributes:
        location: where it is; may hold surrogate escapes.
        relative: its path under the root with `/`, escaped to valid UTF-8: fit to be stored.
        identity: whose photograph it is.
        stem: the image id without its identity.
        image_id: unique under one root.
        status: size and time when it was found; None for a dead link.
        problem: `DUPLICATE_ID`, `UNREADABLE` (a dead link), or None.
    """

    location: str
    relative: str
    identity: str
    stem: str
    image_id: str
    status: FileStatus | None
    problem: Reason | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.location)


class Skipped(NamedTuple):
    """An entry whose name would make it a candidate and whose nature forbids it: told to the caller."""

    path: Path
    why: str


class _Entry(NamedTuple):
    location: str
    parts: tuple[str, ...]
    status: FileStatus | None


class _Folder(NamedTuple):
    prefix: str
    parts: tuple[str, ...]
    names: Iterator[str]


def scan(
    root: Path,
    layout: Layout | Literal["auto"] = "auto",
    on_skipped: Callable[[Skipped], None] | None = None,
) -> Iterator[FoundPhoto]:
    """Yield the candidate photographs under `root`, in bytewise order of their relative paths.

    Memory is bounded by the largest folder plus the ids of one identity (`flat`: all ids). Folder links are
    followed; a folder that can be reached twice is read the first time only, so loops end.

    Args:
        root: the folder; itself may be a link.
        layout: how names become identities. `auto` decides by `detect_layout` and logs its reason.
        on_skipped: called for unreadable folders, folders reached twice, pipes, sockets and devices.
            Without it each is logged as a warning.

    Raises:
        LayoutError: the root is no readable folder, or lacks what the layout asks for.
    """
    if layout == "auto":
        layout, reason = detect_layout(root)
        logger.info("%s: layout %s, because %s", root, layout, reason)
    _require(root, layout)
    entries = _walk(root, on_skipped or _log_skipped)
    if layout == "apple":
        # the folders below a person's hold annotations drawn as pictures: none is a photograph
        entries = (entry for entry in entries if len(entry.parts) == 2)
        layout = "ffhq-pairs" if {"src", "trg"} <= set(_listing(root)[0]) else "identity-folders"
    return _named(entries, layout)


def detect_layout(root: Path) -> tuple[Layout, str]:
    """Choose a layout from the root's folders and the first candidate in them; returns it and the reason.

    Raises:
        LayoutError: the root is no readable folder.
    """
    folders, files = _listing(root)
    for name in folders:
        if (root / name / APPLE_LANDMARKS).is_dir():
            return "apple", f"{escape(name)} holds a folder {APPLE_LANDMARKS} with drawn landmarks"
    if {"src", "trg"} <= set(folders) and all(_first_candidate(root / name) for name in ("src", "trg")):
        return "ffhq-pairs", "the folders src and trg both hold photographs"
    vgg = [name for name in folders if _VGG_FOLDER.fullmatch(name)]
    if vgg and len(vgg) == len(folders):
        first = _first_candidate(root / vgg[0])
        if first is not None and _VGG_PHOTO.fullmatch(first):
            return (
                "vggface2-hq",
                f"all {len(vgg)} folders are named like n000001, and {first} like 0001_01.jpg",
            )
    for name in folders:
        if _first_candidate(root / name, deep=True):
            return "identity-folders", f"photographs lie in folders, such as {escape(name)}"
    return "flat", f"no folder holds photographs; {len(files)} candidates lie in the root"


def _named(entries: Iterator[_Entry], layout: Layout) -> Iterator[FoundPhoto]:
    in_root: set[str] = set()
    in_folder: set[str] = set()
    folder: str | None = None
    for entry in entries:
        *folders, name = entry.parts
        stem, suffix = os.path.splitext(name)
        if layout != "flat" and folders and folders[0] != folder:
            folder, in_folder = folders[0], set()
        image_id, identity = _name(layout, folders, stem)
        problem = None if entry.status else Reason.UNREADABLE
        while image_id in in_root or image_id in in_folder:
            problem = problem or Reason.DUPLICATE_ID
            image_id += escape(suffix) or "."
        (in_folder if folders and layout != "flat" else in_root).add(image_id)
        yield FoundPhoto(
            location=entry.location,
            relative="/".join(map(escape, entry.parts)),
            identity=image_id if identity is None else identity,
            stem=image_id.rsplit("/", 1)[-1],
            image_id=image_id,
            status=entry.status,
            problem=problem,
        )


def _name(layout: Layout, folders: list[str], stem: str) -> tuple[str, str | None]:
    """Image id and identity; identity None stands for the final image id."""
    if layout == "flat" or not folders:
        joined = join_parts([*folders, stem])
        return f"{joined}/{joined}", joined
    identity = escape(folders[0])
    image_id = f"{identity}/{join_parts([*folders[1:], stem])}"
    return image_id, None if layout == "ffhq-pairs" else identity


def _walk(root: Path, on_skipped: Callable[[Skipped], None]) -> Iterator[_Entry]:
    visited: set[tuple[int, int]] = set()
    # A stack of name iterators, not recursion: deep trees must not meet Python's recursion limit.
    # Places are strings, not paths: making 1.5 million paths takes longer than asking for the files' times.
    start = os.fspath(root)
    stack = [_Folder(start.rstrip("/") + "/", (), iter(_enter(start, visited, on_skipped)))]
    while stack:
        folder = stack[-1]
        name = next(folder.names, None)
        if name is None:
            stack.pop()
            continue
        location, parts = folder.prefix + name, (*folder.parts, name)
        try:
            status = os.stat(location)
        except OSError:  # a dead link, a link onto itself, no permission: a row that says so
            yield _Entry(location, parts, None)
            continue
        if stat.S_ISREG(status.st_mode):
            yield _Entry(location, parts, FileStatus(status.st_size, status.st_mtime_ns))
        elif stat.S_ISDIR(status.st_mode):
            stack.append(_Folder(f"{location}/", parts, iter(_enter(location, visited, on_skipped))))
        else:
            on_skipped(Skipped(Path(location), "neither a file nor a folder"))


def _enter(folder: str, visited: set[tuple[int, int]], on_skipped: Callable[[Skipped], None]) -> list[str]:
    """Candidate names of a folder; none, and a word to `on_skipped`, where it cannot or need not be read."""
    try:
        status = os.stat(folder)
        key = (status.st_dev, status.st_ino)
        if key in visited:
            on_skipped(Skipped(Path(folder), "this folder has been read already under another name"))
            return []
        visited.add(key)
        return _sorted_names(folder)
    except OSError as error:
        on_skipped(Skipped(Path(folder), f"folder cannot be read: {error.strerror}"))
        return []


def _sorted_names(folder: str | Path) -> list[str]:
    """Candidate names in a folder; folders sort as if they ended in `/`: so whole paths come bytewise."""
    keyed: list[tuple[bytes, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = _is_folder(entry)
            if not _is_left_out(entry.name, is_folder):
                keyed.append((os.fsencode(entry.name) + (b"/" if is_folder else b""), entry.name))
    return [name for _, name in sorted(keyed)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that loops onto itself
        return False


def _is_left_out(name: str, is_folder: bool) -> bool:
    lowered = name.lower()
    if name.startswith("."):
        return True
    if is_folder:
        return lowered.endswith(".lance")
    return lowered in SIDECAR_NAMES or os.path.splitext(lowered)[1] in SIDECAR_SUFFIXES


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Candidate folders and files of a folder."""
    try:
        names = _sorted_names(folder)
    except OSError as error:
        raise LayoutError(f"{folder} is not a folder that can be read: {error.strerror}") from error
    folders = [name for name in names if (folder / name).is_dir()]
    is_folder = frozenset(folders)
    return folders, [name for name in names if name not in is_folder]


def _first_candidate(folder: Path, deep: bool = False) -> str | None:
    if deep:
        first = next(_walk(folder, lambda _: None), None)
        return first.parts[-1] if first else None
    try:
        names = _sorted_names(folder)
    except OSError:
        return None  # detection only; the scan itself reports the folder
    return next((name for name in names if not (folder / name).is_dir()), None)


def _require(root: Path, layout: Layout) -> None:
    folders, _ = _listing(root)
    if layout == "ffhq-pairs" and not {"src", "trg"} <= set(folders):
        raise LayoutError(f"{root} has no folders src and trg, which the layout ffhq-pairs needs")
    if layout == "vggface2-hq" and not any(_VGG_FOLDER.fullmatch(name) for name in folders):
        raise LayoutError(f"{root} has no folder named like n000001, which the layout vggface2-hq needs")


def _log_skipped(skipped: Skipped) -> None:
    logger.warning("skipped %s: %s", escape(str(skipped.path)), skipped.why)
