"""The record of a folder of swaps: what each picture was made from, so that a rerun makes only what lacks.

One JSON line per pair, appended when its files are written; of several lines for one pair the last counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.lake.errors import LakeError

MANIFEST_FILE = "manifest.jsonl"


class SwapEntry(BaseModel):
    """What became of one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The pair's name, the target's stem.")
    settings: str = Field(description="Digest of everything besides the photographs that decides the result.")
    photos: Mapping[str, str] = Field(description="SHA-256 of source, target and condition by their names.")
    files: Mapping[str, str] = Field(
        default={}, description="SHA-256 of every file written, by its path below the manifest's folder."
    )
    model_id: str = Field(description="Checkpoint that swapped.")
    faces: tuple[Mapping[str, Any], ...] = Field(
        default=(), description="Place, box and outcome of every chosen face of the target."
    )
    reason: str | None = Field(default=None, description="Typed reason why there is no result.")
    detail: str | None = Field(default=None, description="What exactly was wrong.")


class SwapManifest:
    """The manifest of a folder.

    Raises:
        LakeError: a line of the file is none of ours. A last line that a kill has cut short is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / MANIFEST_FILE
        self.entries: dict[str, SwapEntry] = {}
        self._torn = 0
        if not self.path.is_file():
            return
        *lines, torn = self.path.read_bytes().split(b"\n")
        self._torn = len(torn)
        for number, line in enumerate(lines, start=1):
            try:
                entry = SwapEntry.model_validate_json(line)
            except ValidationError as error:
                raise LakeError(
                    f"{self.path}:{number} is no line of a swap manifest; move the file away to start afresh"
                ) from error
            self.entries[entry.name] = entry

    def has(self, name: str, settings: str, photos: Mapping[str, str], files: Collection[str]) -> bool:
        """Whether these files were made from these photographs with these settings, and are still there."""
        entry = self.entries.get(name)
        if entry is None or entry.reason or entry.settings != settings or entry.photos != photos:
            return False
        return all(self._digest(path) == entry.files.get(path, "") for path in files)

    def add(self, entry: SwapEntry) -> None:
        """Append an entry; its files must have been written."""
        self.entries[entry.name] = entry
        # ASCII, so that names that are no UTF-8 survive
        line = json.dumps(entry.model_dump(mode="python"), default=dict) + "\n"
        with self.path.open("ab") as file:
            if self._torn:
                file.truncate(file.tell() - self._torn)
                self._torn = 0
            file.write(line.encode("ascii"))

    def _digest(self, path: str) -> str | None:
        file = self.folder / path
        return sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def write_whole(path: Path, data: bytes) -> str:
    """Write a file through a neighbour and a rename; its SHA-256. A kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return sha256(data).hexdigest()
