"""The files of a table on a local disk: which of them its versions refer to, and which nobody needs.

A killed worker leaves data files that no version refers to, and half-written temporary ones. They harm
nothing but take space, and may hold what somebody wants forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance

from resources.lake.table import LakeTable

MANIFESTS = "_versions"
MANIFEST_NUMBERS = (1 << 64) - 1
"""Manifests are named by this number minus their version, so that the newest sorts first."""


@dataclass(frozen=True)
class StoredFile:
    """One file and its size in bytes."""

    path: Path
    size: int


def open_version(table: LakeTable, version: int | None = None) -> lance.LanceDataset:
    """The table's data set at a version, the newest by default."""
    return table.snapshot(version).dataset


def tagged_versions(table: LakeTable) -> dict[str, int]:
    """Version by tag."""
    return {name: int(tag["version"]) for name, tag in open_version(table).tags.list().items()}


def stored_versions(table: LakeTable) -> dict[int, float]:
    """When every version was committed (seconds of the epoch), by version."""
    versions: Any = open_version(table).versions()  # Lance's own type is too wide
    return {int(item["version"]): item["timestamp"].timestamp() for item in versions}


def referenced_files(table: LakeTable, versions: Iterable[int]) -> set[Path]:
    """Data, deletion and transaction files that the versions need, and their manifests."""
    root = Path(table.uri)
    needed: set[Path] = set()
    for version in versions:
        dataset = open_version(table, version)
        needed.add(root / MANIFESTS / f"{MANIFEST_NUMBERS - version:020d}.manifest")
        for fragment in dataset.get_fragments():
            needed |= {root / "data" / item.path for item in fragment.data_files()}
            deletions = fragment.metadata.deletion_file
            if deletions is not None:
                needed.add(root / deletions.path(fragment.fragment_id))
        with contextlib.suppress(OSError, ValueError):  # the file of a very old version may be gone already
            transaction = dataset.read_transaction(version)
            if transaction is not None:
                needed.add(root / "_transactions" / f"{transaction.read_version}-{transaction.uuid}.txn")
    return needed


def unreferenced_files(table: LakeTable, versions: Iterable[int]) -> list[StoredFile]:
    """Files of the table that none of the versions needs, leftovers of killed writers among them."""
    needed = referenced_files(table, versions)
    root = Path(table.uri)
    found = [*files_under(root / "data"), *files_under(root / "_deletions")]
    found += [*files_under(root / "_transactions"), *files_under(root / MANIFESTS)]
    # hints and the like are Lance's own business; manifests, transactions and temporary files are known
    known = (".lance", ".arrow", ".bin", ".txn", ".manifest")
    return [
        item
        for item in found
        if item.path not in needed and (item.path.suffix in known or item.path.name.startswith(".tmp"))
    ]


def files_under(folder: Path) -> Iterator[StoredFile]:
    """All files below a folder, in the order of their paths; none when there is no folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield StoredFile(path, path.stat().st_size)
