"""A folder of everything that a file system can hold and a photograph folder should not."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mutations import OK

LEFT_OUT, SKIPPED = "left out", "skipped"
"""Left out by a documented rule about names; skipped and named in the output."""

VANISHES, SHRINKS, GROWS, BECOMES_PIPE, BECOMES_FOLDER, BECOMES_BROKEN = (
    f"{what} while ingesting.jpg"
    for what in ("vanishes", "shrinks", "grows", "becomes a pipe", "becomes a folder", "becomes broken")
)


class Add(Protocol):
    """Put one thing into the folder: what it is there for, its name, its fate, its bytes (None: none yet)."""

    def __call__(self, kind: str, name: bytes | str, fate: str, content: bytes | None = ...) -> Path: ...


@dataclass(frozen=True)
class Entry:
    """One thing in the folder: its path, what it is there for, and the fate that is right."""

    path: Path
    kind: str
    fate: str


def make_tree(root: Path, photo: bytes) -> list[Entry]:
    """Fill `root` with hostile names and hostile things; `photo` is a sound JPEG."""
    entries: list[Entry] = []

    def add(kind: str, name: bytes | str, fate: str, content: bytes | None = photo) -> Path:
        path = root / kind.replace(" ", "-") / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
        entries.append(Entry(path, kind, fate))
        return path

    _names(add)
    _links(add, root, photo)
    _things(add)
    for name, fate in (
        (VANISHES, "unreadable"),
        (SHRINKS, "truncated"),
        (GROWS, OK),
        (BECOMES_PIPE, "unreadable"),
        (BECOMES_FOLDER, "unreadable"),
        (BECOMES_BROKEN, "not_an_image"),
    ):
        add("changing files", name, fate)
    return entries


def interfere(path: Path) -> None:
    """What `make_tree` promised: change a file after it was found and before it is read."""
    if path.name == SHRINKS:
        os.truncate(path, 400)
    elif path.name == GROWS:
        with path.open("ab") as file:
            file.write(bytes(100_000))
    elif path.name == BECOMES_BROKEN:
        path.write_bytes(b"no picture any more")
    elif path.name in (VANISHES, BECOMES_PIPE, BECOMES_FOLDER):
        path.unlink(missing_ok=True)
        if path.name == BECOMES_PIPE:
            os.mkfifo(path)
        elif path.name == BECOMES_FOLDER:
            path.mkdir()


def _names(add: Add) -> None:
    for name in (
        b"\xff\xfe no utf-8 \x80.jpg",
        b"latin-1 \xe9t\xe9.jpg",
        b"overlong \xc0\xaf.jpg",
        b"a lone surrogate \xed\xa0\x80.jpg",
    ):
        add("no utf-8", name, OK)
    for name in (
        "line\nbreak.jpg",
        "tab\tand\rreturn.jpg",
        "bell\x07 escape\x1b[31m.jpg",
        "delete\x7f\x85.jpg",
    ):
        add("control characters", name, OK)
    for name in (
        "\u202egpj.exe.jpg",
        "\u0645\u0631\u062d\u0628\u0627.jpg",
        "zero\u200bwidth\ufeff.jpg",
        "\U0001f469\u200d\U0001f9b0.jpg",
        "\uffff no character.jpg",
    ):
        add("odd unicode", name, OK)
    for name in (
        "e\u0301.jpg",
        "\u00e9.jpg",
        "Case.jpg",
        "case.jpg",
        "CASE.jpg",
        "stra\u00dfe.jpg",
        "strasse.jpg",
    ):
        add("twins", name, OK)
    for name in (
        "-rf.jpg",
        "--help.jpg",
        "*?[a].jpg",
        "$(reboot).jpg",
        "`x`;|&.jpg",
        "a'b\"c.jpg",
        "%41%.jpg",
    ):
        add("shell and sql", name, OK)
    for name in (
        "' OR image_id IS NOT NULL --.jpg",
        "back\\slash.jpg",
        " space .jpg",
        "dots...jpg",
        "no suffix",
    ):
        add("shell and sql", name, OK)
    add("255 bytes", b"x" * 251 + b".jpg", OK)
    add("255 bytes", "\u00e9".encode() * 125 + b"x.jpg", OK)
    add("255 bytes", b"\xff" * 251 + b".jpg", OK)
    deep = "/".join(["d" * 100] * 12)
    add("deep", f"{deep}/photo.jpg", OK)
    for name in (
        ".hidden.jpg",
        ".jpg",
        ".folder/photo.jpg",
        "table.lance/photo.jpg",
        "notes.TXT",
        "Thumbs.db",
    ):
        add("rules", name, LEFT_OUT)
    add("same id", "a.jpeg", OK)
    add("same id", "a.jpg", "duplicate_id")
    add("same id", "a.png", "duplicate_id")
    add("same id", "b/c.jpg", OK)
    add("same id", "b__c.jpg", "duplicate_id")


def _links(add: Add, root: Path, photo: bytes) -> None:
    outside = root.with_name(f"{root.name} outside") / "photo.jpg"
    outside.parent.mkdir(parents=True, exist_ok=True)
    outside.write_bytes(photo)
    first = add("links", "first.jpg", OK)
    os.link(first, add("links", "hard.jpg", OK, None))
    for name, target, fate in (
        ("inside.jpg", "first.jpg", OK),
        ("outside.jpg", str(outside), OK),
        ("dangling.jpg", "nowhere", "unreadable"),
        ("itself.jpg", "itself.jpg", "unreadable"),
        ("ping.jpg", "pong.jpg", "unreadable"),
        ("pong.jpg", "ping.jpg", "unreadable"),
        ("zeros.jpg", "/dev/zero", SKIPPED),
        ("nothing.jpg", "/dev/null", SKIPPED),
        ("up", "..", SKIPPED),
        ("here.jpg", ".", SKIPPED),
    ):
        add("links", name, fate, None).symlink_to(target)


def _things(add: Add) -> None:
    os.mkfifo(add("things", "pipe.jpg", SKIPPED, None))
    with socket.socket(socket.AF_UNIX) as listener:
        path = add("things", "socket.jpg", SKIPPED, None)
        here = os.open(path.parent, os.O_RDONLY)
        try:  # a socket's address has at most 108 bytes, so it is named relative to its folder
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)
    add("things", "folder.jpg/photo.jpg", OK)
    add("things", "empty.jpg", "empty", b"")
    for first in (b"\xff", b"\x89", b"R"):
        add("things", f"one byte {first.hex()}.jpg", "truncated", first)
    add("things", "one byte 41.jpg", "not_an_image", b"A")
    huge = add("things", "a terabyte of holes.jpg", "too_large")
    os.truncate(huge, 2**40)
    superuser = os.geteuid() == 0  # reads everything
    add("things", "locked.jpg", OK if superuser else "unreadable").chmod(0)
    closed = add("things", "closed/photo.jpg", OK if superuser else SKIPPED)
    closed.parent.chmod(0)
