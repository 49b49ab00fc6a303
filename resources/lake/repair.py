"""Mend a damaged lake: what can be computed is emptied so that it is computed again, photographs are re-read.

Nothing is guessed. A damaged column group becomes null and its rows pending; a photograph comes from its
source file, and is quarantined when that is gone; a checkpoint is trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lance
import pyarrow as pa
from lance import LanceOperation

from resources.lake.commit import commit_group
from resources.lake.damage import Damage, DamagedFile, find_damage, find_damaged_files
from resources.lake.errors import LakeError
from resources.lake.files import MANIFEST_NUMBERS, MANIFESTS
from resources.lake.housekeeping import remove_all
from resources.lake.ingest import ingest, refresh_shard, source_path, source_roots
from resources.lake.lake import Lake
from resources.lake.locks import alone_on_lake
from resources.lake.recipes import RELEASED_TABLES, base_name, of_recipe, recipe_of
from resources.lake.storage import Storage
from resources.lake.table import LakeTable

MANIFEST, DAMAGED_SUFFIX = ".manifest", ".damaged"
LIST_MAKER = "release"
"""The stage that writes the rows of the pair tables: made stale when such rows are lost."""


@dataclass
class RepairReport:
    """What was damaged, and what was done about it."""

    damage: list[Damage] = field(default_factory=list)
    files: list[DamagedFile] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was damaged."""
        return not (self.damage or self.files or self.versions)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "sound": self.sound,
            "damage": [{**vars(item), "keys": len(item.keys)} for item in self.damage],
            "files": [vars(item) for item in self.files],
            "versions": self.versions,
            "done": self.done,
            "todo": self.todo,
        }


def repair(
    lake: Lake,
    groups: Mapping[str, Sequence[Sequence[str]]],
    *,
    check_only: bool = False,
    say: Callable[[str], None] = print,
) -> RepairReport:
    """Find damage and, unless `check_only`, mend it. Afterwards a plain run computes what became pending.

    `groups` are the column groups of every table's stages. Raises LakeError while another process computes
    on the lake, and when a file may not be read at all.
    """
    report = RepairReport()
    with alone_on_lake(lake, "repair"):
        report.versions = _open_tables(lake, check_only)
        if check_only and report.versions:
            return report
        report.damage = find_damage(lake, groups)
        report.files = find_damaged_files(lake)
        for damage in report.damage:
            say(f"{damage.table} fragment {damage.fragment}: {damage.kind} damaged ({damage.detail})")
        if check_only:
            return report
        for damage in report.damage:
            if damage.kind == "group":
                _empty(lake.table(damage.table), damage, report)
            elif damage.kind == "rows":
                _drop(lake, damage, report)
        for item in report.files:
            _make_again(lake, item, report)
    # outside the lock: whoever ingests takes his own
    _read_again(lake, report)
    if any(damage.kind == "rows" and damage.table == "faces" for damage in report.damage):
        _ingest_again(lake, report)
    return report


def _open_tables(lake: Lake, check_only: bool) -> list[str]:
    """Put aside versions whose manifest cannot be read; what they had committed is pending again."""
    told: list[str] = []
    for name in lake.table_names():
        table = lake.table(name)
        storage = Storage.at(table.uri)
        manifests = [item for item in storage.children(MANIFESTS) if item.endswith(MANIFEST)]
        if not manifests or table.exists():
            continue
        bad: list[str] = []
        for location in manifests:  # the newest comes first
            with contextlib.suppress(OSError, ValueError):
                lance.dataset(table.uri, version=_version(location))
                break
            bad.append(location)
        else:
            raise LakeError(
                f"no version of {table.uri} can be read; move that folder away and ingest the "
                "photographs again"
            )
        told += [f"{name}: version {_version(location)} cannot be read" for location in bad]
        if not check_only:
            for location in bad:
                storage.rename(location, location.removesuffix(MANIFEST) + DAMAGED_SUFFIX)
            storage.remove(f"{MANIFESTS}/latest_version_hint.json")
    return told


def _version(manifest: str) -> int:
    return MANIFEST_NUMBERS - int(manifest.rpartition("/")[2].removesuffix(MANIFEST))


def _empty(table: LakeTable, damage: Damage, report: RepairReport) -> None:
    """Replace columns of a fragment by nulls, in one commit."""
    snapshot = table.snapshot()
    schema = pa.schema([snapshot.dataset.schema.field(name) for name in damage.columns])
    rows = snapshot.fragment_rows(damage.fragment)
    nulls = pa.Table.from_arrays([pa.nulls(rows, item.type) for item in schema], schema=schema)
    commit_group(snapshot, damage.fragment, nulls, {"repair": damage.detail})
    report.done.append(
        f"{damage.table}: {rows} rows pending again in {', '.join(damage.columns)} (`orchard run`)"
    )


def _drop(lake: Lake, damage: Damage, report: RepairReport) -> None:
    """Take a fragment that cannot be read out of its table."""
    table = lake.table(damage.table)
    snapshot = table.snapshot()
    operation = LanceOperation.Delete([], [damage.fragment], "false")
    transaction = lance.Transaction(read_version=snapshot.version, operation=operation)
    lance.LanceDataset.commit(table.uri, transaction, storage_options=dict(table.storage_options) or None)
    report.done.append(f"{damage.table}: dropped {damage.rows} rows that cannot be read")
    if base_name(damage.table) in RELEASED_TABLES:
        maker = of_recipe(LIST_MAKER, recipe_of(damage.table))
        _make_stale(lake, maker)
        report.done.append(f"{maker} is stale, so that `orchard run` lists the lost pairs again")
    elif damage.table == "swap_pairs":
        report.todo.append("ingest the list of swap pairs again: `orchard ingest PATH --swap-pairs CSV`")
    elif damage.table == "removals":
        report.todo.append("forgotten photographs are no longer known: `orchard forget` those again")
    elif damage.table == "source_roots":
        report.todo.append("ingest your folders again, so that the lake knows where photographs come from")


def _make_again(lake: Lake, item: DamagedFile, report: RepairReport) -> None:
    """Remove a damaged checkpoint or list; the stage whose current artifact it is becomes stale."""
    rows = lake.artifacts.snapshot().dataset.to_table(columns=["stage", "location"]).to_pylist()
    stages = sorted({row["stage"] for row in rows if row["location"] == item.location})
    remove_all(lake, [item.location])
    for stage in stages:
        current = lake.current_artifact(stage)
        if current is not None and current.location == item.location:
            _make_stale(lake, stage)
            report.done.append(f"{stage} is stale: {item.location} is damaged ({item.detail})")
        else:
            report.done.append(f"removed {item.location}, an earlier {stage} ({item.detail})")


def _make_stale(lake: Lake, stage: str) -> None:
    """Register the current artifact once more, as made from nothing known."""
    current = lake.current_artifact(stage)
    if current is not None and current.fingerprint:
        lake.record_artifact(dataclasses.replace(current, fingerprint=b""))


def _read_again(lake: Lake, report: RepairReport) -> None:
    """Read damaged photographs from their source files, shard by shard."""
    keys = sorted({key for damage in report.damage if damage.kind == "photographs" for key in damage.keys})
    if not keys:
        return
    found = lake.faces.snapshot().find(keys, ["shard"])
    for shard in sorted({row["shard"] for row in found.values()}):
        refresh_shard(lake, shard, again=keys)
    rows = lake.faces.snapshot().find(keys, ["image"])
    lost = sorted(key for key, row in rows.items() if row["image"] is None)
    report.done.append(f"faces: {len(keys) - len(lost)} photographs read again from their source files")
    if lost:
        report.todo.append(
            f"the source files of {len(lost)} damaged photographs cannot be used, their rows are "
            f"quarantined: {', '.join(lost[:5])}"
        )


def _ingest_again(lake: Lake, report: RepairReport) -> None:
    """Ingest the known folders, so that lost rows come back."""
    for root in source_roots(lake):
        path = source_path(root.path)
        if not path.is_dir():
            report.todo.append(f"{root.path} is gone; ingest its photographs from where they are now")
            continue
        added = ingest(lake, path, layout=root.layout, shard_size=root.shard_size).added
        report.done.append(f"faces: {added} rows ingested again from {root.path}")
    report.todo.append(
        "the consent of rows that were lost is unknown: state it with `orchard ingest PATH --consent ...`"
    )
