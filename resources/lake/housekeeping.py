"""Housekeeping: drop what nobody can reach any more, and say beforehand what and how many bytes.

Every rerun of a stage leaves its old column group in an old version of the table; every kill may leave a data
file, a half-written checkpoint or a list. Tagged versions and the newest are never touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from resources.lake.files import files_beyond, referenced_files, stored_files, stored_versions
from resources.lake.lake import Lake
from resources.lake.leases import ensure_held
from resources.lake.locks import alone_on_lake
from resources.lake.purge import drop_versions, untagged_versions
from resources.lake.schema import FRONTIERS
from resources.lake.storage import StoredFile
from resources.lake.table import LakeTable
from resources.tracking.layout import EVENTS_FOLDER, GRIDS_FOLDER, KEPT

DEFAULT_KEEP_SECONDS = 24 * 3600.0
SAFETY_SECONDS = 3600.0
"""Files without any reference are left alone when younger: on a shared disk, workers of another machine may
be about to commit them. A clock that went backwards makes files look younger, so it keeps too much only."""

UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Waste:
    """One thing to remove: a kind, what it is, how many files and bytes."""

    kind: str
    name: str
    files: int
    bytes: int


@dataclass
class GarbagePlan:
    """What housekeeping would remove."""

    versions: dict[str, list[int]] = field(default_factory=dict)
    locations: list[str] = field(default_factory=list)
    waste: list[Waste] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that would be freed."""
        return sum(item.bytes for item in self.waste)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {"bytes": self.bytes, "waste": [vars(item) for item in self.waste]}


def plan_garbage(
    lake: Lake, *, keep_seconds: float = DEFAULT_KEEP_SECONDS, safety_seconds: float = SAFETY_SECONDS
) -> GarbagePlan:
    """What can go: untagged versions and leftovers older than `keep_seconds`.

    Files that no version, artifact or list refers to go when older than `safety_seconds`.
    """
    now = time.time()
    plan = GarbagePlan()
    for name in lake.table_names():
        table = lake.table(name)
        if table.exists():
            _plan_table(plan, name, table, now - keep_seconds, now - safety_seconds)
    for kind, locations in _leftovers(lake).items():
        limit = safety_seconds if UNFINISHED in kind else keep_seconds
        for location in locations:
            if lake.storage.last_written(location) <= now - limit:
                plan.locations.append(location)
                plan.waste.append(_waste(kind, location, lake.storage.files(location)))
    return plan


def collect_garbage(
    lake: Lake, *, keep_seconds: float = DEFAULT_KEEP_SECONDS, safety_seconds: float = SAFETY_SECONDS
) -> GarbagePlan:
    """Remove what `plan_garbage` finds, and return it.

    Raises LakeError while another process computes on the lake.
    """
    with alone_on_lake(lake, "gc"):
        plan = plan_garbage(lake, keep_seconds=keep_seconds, safety_seconds=safety_seconds)
        for name, versions in plan.versions.items():
            drop_versions(lake.table(name), versions)
        remove_all(lake, plan.locations)
    return plan


def training_leftovers(lake: Lake) -> list[str]:
    """States of broken-off trainings, and those of finished ones, of which only what people look at stays.

    A rerun with the same inputs would resume the broken-off ones.
    """
    curves = _used(lake)
    leftovers: list[str] = []
    for folder in lake.storage.children("training"):
        states = [item for item in lake.storage.children(folder) if item.rpartition("/")[2] not in KEPT]
        leftovers += states if folder in curves else [folder]
    return leftovers


def training_pictures(lake: Lake) -> list[str]:
    """Validation grids and events, which show photographs, of all trainings."""
    shown = {GRIDS_FOLDER, EVENTS_FOLDER}
    return [
        item
        for folder in lake.storage.children("training")
        for item in lake.storage.children(folder)
        if item.rpartition("/")[2] in shown
    ]


def remove_all(lake: Lake, locations: Iterable[str]) -> None:
    """Remove files and folders of a lake; those that are gone already are no matter."""
    for location in locations:
        ensure_held(lake.uri)
        lake.storage.remove(location)


def _plan_table(plan: GarbagePlan, name: str, table: LakeTable, before: float, files_before: float) -> None:
    committed = stored_versions(table)
    old = [version for version in untagged_versions(table) if committed[version] <= before]
    kept = sorted(set(committed) - set(old))
    # each version is opened once: with thousands of them, that is nearly all of the time
    old_files, kept_files = referenced_files(table, old), referenced_files(table, kept)
    if old:
        gone = old_files - kept_files
        stored = stored_files(table)
        files = [stored[location] for location in sorted(gone) if location in stored]
        plan.versions[name] = old
        plan.waste.append(_waste("old versions", f"{name}: {len(old)}", files))
    beyond = files_beyond(table, old_files | kept_files)
    orphans = [item for item in beyond if item.written <= files_before]
    if orphans:
        plan.locations += [f"{name}.lance/{item.location}" for item in orphans]
        plan.waste.append(_waste("data files without a version", name, orphans))


def _leftovers(lake: Lake) -> dict[str, list[str]]:
    """Files beside the tables that no artifact refers to, by kind."""
    used = _used(lake)
    folders = ("checkpoints", "releases", FRONTIERS)
    checkpoints, lists, frontiers = (lake.storage.children(folder) for folder in folders)
    unfinished = [location for location in [*checkpoints, *lists, *frontiers] if UNFINISHED in location]
    return {
        "training states": training_leftovers(lake),
        "checkpoints without an artifact": _unused(checkpoints, used, unfinished),
        "lists without a release": _unused(lists, used, unfinished),
        "frontiers without an artifact": _unused(frontiers, used, unfinished),
        f"half-written ({UNFINISHED})": unfinished,
    }


def _used(lake: Lake) -> set[str]:
    """Checkpoint folders, lists, and folders of loss curves that artifacts name."""
    rows = lake.artifacts.snapshot().dataset.to_table(columns=["location", "metadata"]).to_pylist()
    used = {row["location"] for row in rows if row["location"]}
    losses = [json.loads(row["metadata"]).get("losses") for row in rows]
    return used | {item.rpartition("/")[0] for item in losses if item}


def _unused(locations: list[str], used: set[str], unfinished: list[str]) -> list[str]:
    return [location for location in locations if location not in used and location not in unfinished]


def _waste(kind: str, name: str, files: list[StoredFile]) -> Waste:
    return Waste(kind, name, len(files), sum(item.size for item in files))
