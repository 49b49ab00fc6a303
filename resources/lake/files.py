"""The files of a table: which of them its versions refer to, and which nobody needs.

A killed worker leaves data files that no version refers to, and half-written temporary ones. They harm
nothing but take space, and may hold what somebody wants forgotten. Locations are relative to the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from typing import Any

import lance

from resources.lake.storage import Storage, StoredFile
from resources.lake.table import LakeTable

DATA, DELETIONS, TRANSACTIONS = "data", "_deletions", "_transactions"
MANIFESTS = "_versions"
MANIFEST_NUMBERS = (1 << 64) - 1
"""Manifests are named by this number minus their version, so that the newest sorts first."""

KNOWN_ENDINGS = (".lance", ".arrow", ".bin", ".txn", ".manifest")
"""Hints and the like are Lance's own business; these, and temporary files, are known."""


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


def referenced_files(table: LakeTable, versions: Iterable[int]) -> set[str]:
    """Locations of data, deletion and transaction files that the versions need, and of their manifests."""
    needed: set[str] = set()
    for version in versions:
        dataset = open_version(table, version)
        needed.add(f"{MANIFESTS}/{MANIFEST_NUMBERS - version:020d}.manifest")
        for fragment in dataset.get_fragments():
            needed |= {f"{DATA}/{item.path}" for item in fragment.data_files()}
            deletions = fragment.metadata.deletion_file
            if deletions is not None:
                needed.add(deletions.path(fragment.fragment_id))
        with contextlib.suppress(OSError, ValueError):  # the file of a very old version may be gone already
            transaction = dataset.read_transaction(version)
            if transaction is not None:
                needed.add(f"{TRANSACTIONS}/{transaction.read_version}-{transaction.uuid}.txn")
    return needed


def unreferenced_files(table: LakeTable, versions: Iterable[int]) -> list[StoredFile]:
    """Files of the table that none of the versions needs, leftovers of killed writers among them."""
    return files_beyond(table, referenced_files(table, versions))


def files_beyond(table: LakeTable, needed: Collection[str]) -> list[StoredFile]:
    """Files of the table whose locations are not among the needed ones."""
    found = stored_files(table)
    return [item for location, item in found.items() if location not in needed and _is_known(location)]


def stored_files(table: LakeTable) -> dict[str, StoredFile]:
    """Every file of the table, by location."""
    storage = Storage.at(table.uri)
    folders = (DATA, DELETIONS, TRANSACTIONS, MANIFESTS)
    return {item.location: item for folder in folders for item in storage.files(folder)}


def _is_known(location: str) -> bool:
    name = location.rpartition("/")[2]
    return name.endswith(KNOWN_ENDINGS) or name.startswith(".tmp")
