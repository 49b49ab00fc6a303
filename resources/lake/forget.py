"""Forget photographs: their rows, everything made from them, and every byte of both in the lake.

What stays is a list of hashes, so that the same files are not ingested again, and a list of the checkpoints
that were trained with them: a model cannot unlearn, it can only be trained again without.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resources.lake.arrow import compute as pc
from resources.lake.errors import LakeError
from resources.lake.files import stored_versions, tagged_versions
from resources.lake.housekeeping import remove_all, training_leftovers, training_pictures
from resources.lake.lake import Lake
from resources.lake.leases import ensure_held
from resources.lake.locks import alone_on_lake
from resources.lake.purge import Purged, live_keys, physical_values, purge_rows
from resources.lake.recipes import RECIPE_TABLES, base_name, of_recipe, recipe_of
from resources.lake.removals import (
    RemovalKind,
    Tainted,
    mark_tainted,
    name_hash,
    read_removals,
    read_tainted,
    remember,
)
from resources.lake.schema import FRONTIERS

PAIR_COLUMNS = ("source_image_id", "target_image_id")
HOLDERS: dict[str, tuple[str, ...]] = {
    "diffface_swaps": PAIR_COLUMNS,
    "swaps": PAIR_COLUMNS,
    "triplets": PAIR_COLUMNS,
    "swap_pairs": PAIR_COLUMNS,
    "faces": ("image_id",),
}
"""Tables that hold photographs or what is made of them, and the columns that name the photographs.

`faces` is last: until its rows are gone, a killed run can find out again whom it was about.
"""


def holders(lake: Lake) -> dict[str, tuple[str, ...]]:
    """These tables with those of all recipes, in the order in which they are purged."""
    own = {of_recipe(table, recipe): PAIR_COLUMNS for recipe in lake.recipes() for table in RECIPE_TABLES}
    return {**own, **HOLDERS}


MEASURED = ("evaluation", "evaluation_protocol", "frontier")
"""Stages that measure swaps."""

RELEASES = "releases"
TRAINED_ON = "train"
LISTED = ("image_id", *PAIR_COLUMNS)
"""Columns in which a release's list, of photographs or of triplets, names photographs."""


@dataclass(frozen=True)
class Photographs:
    """What is to be forgotten: ids, and the SHA-256 of every file they ever were."""

    image_ids: frozenset[str]
    identities: frozenset[str]
    files: frozenset[str]
    rows: dict[str, int]

    @property
    def there(self) -> bool:
        """Whether any table still has a live row of them."""
        return any(self.rows.values())


@dataclass
class ForgetReport:
    """What was forgotten, and what that touches."""

    photographs: int = 0
    tables: dict[str, Purged] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    removed_files: list[str] = field(default_factory=list)
    tainted: list[Tainted] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "photographs": self.photographs,
            "rows": {name: done.rows for name, done in self.tables.items()},
            "fragments_rewritten": {name: done.fragments for name, done in self.tables.items()},
            "versions_removed": {name: done.versions for name, done in self.tables.items()},
            "dropped_tags": {name: done.dropped_tags for name, done in self.tables.items()},
            "bytes_removed": sum(done.bytes for done in self.tables.values()),
            "release_lists_rewritten": self.lists,
            "removed_files": self.removed_files,
            "tainted": [vars(item) for item in self.tainted],
        }


def find_photographs(
    lake: Lake, *, identities: Collection[str] = (), image_ids: Collection[str] = ()
) -> Photographs:
    """The photographs of people and with ids, also where only an old version still holds them.

    Raises LakeError when there is none and none was ever forgotten under these names.
    """
    known = _search(lake, identities, image_ids, [None, *tagged_versions(lake.faces).values()])
    if not _covers(known, identities, image_ids):
        known = _search(lake, identities, image_ids, sorted(stored_versions(lake.faces)))
    removals = read_removals(lake)
    absent = [name for name in identities if not removals.has_identity(name)]
    absent = [name for name in absent if name not in known.identities]
    absent += [name for name in image_ids if name not in known.image_ids and not removals.has_image(name)]
    if absent:
        raise LakeError(
            f"no photograph of or named {', '.join(absent)} in {lake.uri}; `orchard report` shows image ids "
            "(`person/photo`), and a person is the part before the slash"
        )
    return known


def forget(lake: Lake, *, identities: Collection[str] = (), image_ids: Collection[str] = ()) -> ForgetReport:
    """Forget people and single photographs. Safe to repeat after a kill.

    All old versions of the tables go, and every tag whose version held one of the photographs; the release
    it named is stale by then and is made anew by the next run.

    Raises LakeError when a name is unknown or another process is computing on the lake.
    """
    with alone_on_lake(lake, "forget"):
        found = find_photographs(lake, identities=identities, image_ids=image_ids)
        remember(lake, RemovalKind.FILE, found.files)
        remember(lake, RemovalKind.IMAGE_ID, map(name_hash, {*found.image_ids, *image_ids}))
        remember(lake, RemovalKind.IDENTITY, map(name_hash, identities))
        trained = _trained_on(lake, found.image_ids)
        mark_tainted(lake, _tainted(lake, trained, found))
        report = ForgetReport(photographs=len(found.image_ids))
        for name, columns in holders(lake).items():
            report.tables[name] = purge_rows(lake.table(name), columns, found.image_ids)
        report.lists = _rewrite_lists(lake, found.image_ids)
        # reports show small copies of photographs
        doomed = [location for location in lake.storage.children() if location.endswith(".html")]
        doomed += _frontiers_with(lake, found.image_ids)
        if trained:
            doomed += training_leftovers(lake)
            doomed += training_pictures(lake)
        report.removed_files = doomed
        remove_all(lake, doomed)
        if not lake.is_local and lake.working_root.exists():
            shutil.rmtree(lake.working_root)  # what this machine keeps of the lake can be brought again
        report.tainted = read_tainted(lake)
    return report


def _covers(known: Photographs, identities: Collection[str], image_ids: Collection[str]) -> bool:
    return set(identities) <= known.identities and set(image_ids) <= known.image_ids


def _search(
    lake: Lake, identities: Collection[str], image_ids: Collection[str], versions: Iterable[int | None]
) -> Photographs:
    names = ["image_id", "identity", "image_sha256"]
    people, ids = pa.array(sorted(identities), pa.string()), pa.array(sorted(image_ids), pa.string())
    found: set[str] = set()
    named: set[str] = set()
    files: set[str] = set()
    for version in versions:
        rows = physical_values(lake.faces, names, version)
        wanted = pc.or_(
            pc.is_in(rows["image_id"], value_set=ids), pc.is_in(rows["identity"], value_set=people)
        )
        rows = rows.filter(wanted)
        found |= set(rows["image_id"].to_pylist())
        named |= set(rows["identity"].to_pylist())
        files |= {value for value in rows["image_sha256"].to_pylist() if value}
    wanted_ids = pa.array(sorted(found), pa.string())
    counts = {
        name: len(live_keys(lake.table(name), columns, wanted_ids)) for name, columns in holders(lake).items()
    }
    return Photographs(frozenset(found), frozenset(named), frozenset(files), counts)


def _lists(lake: Lake) -> list[str]:
    return [location for location in lake.storage.children(RELEASES) if location.endswith(".parquet")]


def _trained_on(lake: Lake, image_ids: Collection[str]) -> dict[str, int]:
    """How many of the photographs each release's list names for training, by location."""
    counts: dict[str, int] = {}
    for location in _lists(lake):
        rows = pq.read_table(_opened(lake, location)).to_pylist()
        named = {
            row[name]
            for row in rows
            if row.get("use", TRAINED_ON) == TRAINED_ON
            for name in LISTED
            if name in row
        }
        if used := len(named.intersection(image_ids)):
            counts[location] = used
    return counts


def _tainted(lake: Lake, trained: dict[str, int], found: Photographs) -> list[Tainted]:
    """Artifacts that saw the photographs: all that descend from a release which trained on them.

    What was measured is one when a pair of the photographs was swapped. A release whose list is gone counts
    as having had all of them.
    """
    rows = sorted(lake.artifacts.snapshot().dataset.to_table().to_pylist(), key=lambda row: row["sequence"])
    photographs = len(found.image_ids)
    seen: dict[str, int] = {}
    tainted: dict[str, Tainted] = {}
    for row in rows:
        digest, location = row["digest"].hex(), row["location"]
        if location is not None and location.startswith(f"{RELEASES}/"):
            gone = not lake.storage.exists(location)
            seen[digest] = photographs if gone else trained.get(location, 0)
            continue
        parents = json.loads(row["metadata"]).get("parents", {}).values()
        count = max((seen.get(parent, 0) for parent in parents), default=0)
        swaps = of_recipe("swaps", recipe_of(row["stage"]))
        if base_name(row["stage"]) in MEASURED and found.rows.get(swaps):
            count = photographs
        seen[digest] = count
        if count:
            # recipes that train alike have one checkpoint: it is named after all of them
            stages = {row["stage"], *(tainted[digest].stage.split(", ") if digest in tainted else ())}
            tainted[digest] = Tainted(digest, ", ".join(sorted(stages)), location, count)
    return list(tainted.values())


def _frontiers_with(lake: Lake, image_ids: Collection[str]) -> list[str]:
    """Files of frontiers that swapped the photographs: they hold the swaps themselves."""
    found = []
    for location in lake.storage.children(FRONTIERS):
        table = pq.read_table(_opened(lake, location), columns=list(PAIR_COLUMNS))
        if any(not set(table[name].to_pylist()).isdisjoint(image_ids) for name in PAIR_COLUMNS):
            found.append(location)
    return found


def _rewrite_lists(lake: Lake, image_ids: Collection[str]) -> list[str]:
    """Take the photographs out of the lists of released rows. A list keeps its name."""
    changed: list[str] = []
    wanted: Sequence[str] = sorted(image_ids)
    for location in _lists(lake):
        table = pq.read_table(_opened(lake, location))
        named = np.zeros(table.num_rows, bool)
        for name in set(LISTED).intersection(table.column_names):
            named |= np.asarray(pc.is_in(table[name], value_set=pa.array(wanted, pa.string()))).astype(bool)
        if not named.any():
            continue
        buffer = io.BytesIO()
        pq.write_table(table.filter(pa.array(~named)), buffer)
        ensure_held(lake.uri)
        lake.storage.write(location, buffer.getvalue())
        changed.append(location)
    return changed


def _opened(lake: Lake, location: str) -> io.BytesIO:
    return io.BytesIO(lake.storage.read(location))
