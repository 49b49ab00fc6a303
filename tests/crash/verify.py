"""Whether a lake that was killed and run again is the lake of a run that never died."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import small_orchard

from assets.planner import Planner
from assets.stage import RowStage
from resources.lake.housekeeping import collect_garbage
from resources.lake.lake import UNFINISHED, Lake

ARTIFACT_COLUMNS = ["stage", "recipe", "fingerprint", "digest", "code_version", "location"]
"""What two runs must agree on; an artifact's metadata also holds seconds."""


@dataclass(frozen=True)
class Content:
    """Everything that must be equal: rows of every table, digests of every shard, files of every artifact."""

    rows: dict[str, dict[str, dict[str, Any]]]
    shard_digests: dict[str, dict[str, str]]
    artifacts: list[tuple]
    files: dict[str, str]


def read_content(folder: Path) -> Content:
    """Read a case's lake. Raises ValueError where an id comes twice or a fragment is not readable."""
    lake = Lake.open(folder / "lake")
    rows = {name: _rows(lake, name) for name in _tables(lake) if name != "artifacts"}
    # an announcement says only that a building began: a killed one leaves its own behind
    made = f"recipe != '{UNFINISHED}'"
    artifacts = lake.artifacts.snapshot().dataset.to_table(columns=ARTIFACT_COLUMNS, filter=made).to_pylist()
    return Content(
        rows=rows,
        shard_digests=_shard_digests(lake),
        artifacts=sorted(tuple(row[name] for name in ARTIFACT_COLUMNS) for row in artifacts),
        files=dict(_result_files(Path(lake.uri))),
    )


def differences(expected: Content, found: Content) -> list[str]:
    """One sentence for every difference, none for equal lakes."""
    said = []
    for table, rows in expected.rows.items():
        others = found.rows[table]
        if lost := sorted(rows.keys() - others.keys()):
            said.append(f"{table}: {len(lost)} rows lost, e.g. {lost[0]}")
        if surplus := sorted(others.keys() - rows.keys()):
            said.append(f"{table}: {len(surplus)} rows too many, e.g. {surplus[0]}")
        for key in sorted(rows.keys() & others.keys()):
            if wrong := [name for name, value in rows[key].items() if value != others[key].get(name)]:
                said.append(f"{table}: {key} differs in {', '.join(wrong)}")
    for stage, shards in expected.shard_digests.items():
        if shards != found.shard_digests[stage]:
            said.append(f"{stage}: shard digests differ")
    if expected.artifacts != found.artifacts:
        said.append(f"artifacts: {len(expected.artifacts)} expected, {len(found.artifacts)} found, or others")
    for name in sorted(expected.files.keys() | found.files.keys()):
        if expected.files.get(name) != found.files.get(name):
            said.append(f"{name}: another content, or only on one side")
    return said


def leftovers(folder: Path) -> list[str]:
    """Files that nothing refers to: of tables, temporary ones, states of training."""
    lake = Lake.open(folder / "lake")
    root = Path(lake.uri)
    found = []
    for name in _tables(lake):
        place = root / f"{name}.lance"
        named: set[Path] = set()
        for version in lance.dataset(str(place)).versions():
            for fragment in lance.dataset(str(place), version=version["version"]).get_fragments():
                named |= {place / "data" / item.path for item in fragment.data_files()}
                if (deletions := fragment.metadata.deletion_file) is not None:
                    named.add(place / deletions.path(fragment.fragment_id))
        found += [path for part in ("data", "_deletions") for path in (place / part).glob("*")]
        found = [path for path in found if path not in named]
    found += [*root.glob("checkpoints/.*"), *root.glob("releases/*.unfinished")]
    found += [*root.glob("training/*/resume"), *root.glob("training/*/.*")]
    return [str(path.relative_to(root)) for path in found]


def files_after_housekeeping(folder: Path) -> Counter[str]:
    """Remove all that `orchard gc` can remove, and count what is left, by kind and place.

    Lance's own files have names that are different every time, so of them only folder and suffix count;
    everything else counts by its name.
    """
    lake = Lake.open(folder / "lake")
    root = Path(lake.uri)
    collect_garbage(lake, keep_seconds=0, safety_seconds=0)
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_file():
            name = path.relative_to(root)
            own = name.parent.name in ("data", "_versions", "_transactions", "_deletions")
            found[str(name.parent / f"*{name.suffix}") if own else str(name)] += 1
    return found


def dagster_versions(folder: Path) -> dict[str, str]:
    """Newest data version of every asset partition Dagster knows of; empty without a Dagster home."""
    if not (folder / "dagster").exists():
        return {}
    import dagster as dg

    versions: dict[str, str] = {}
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        for key in instance.all_asset_keys():
            for record in instance.fetch_materializations(key, limit=1000).records:
                event = record.asset_materialization
                assert event is not None
                label = f"{key.to_user_string()} {event.partition or ''}".strip()
                versions.setdefault(label, (event.tags or {}).get("dagster/data_version", ""))
    return versions


def _tables(lake: Lake) -> list[str]:
    return [name for name in lake.table_names() if lake.table(name).exists()]


def _rows(lake: Lake, name: str) -> dict[str, dict[str, Any]]:
    table = lake.table(name)
    snapshot = table.snapshot()
    snapshot.dataset.validate()
    read = snapshot.dataset.to_table(with_row_id=True)
    ids = read["_rowid"].to_pylist()
    keys = read[table.key].to_pylist()
    if name == "evaluations":  # several metrics each
        keys = [
            "/".join(parts)
            for parts in zip(keys, read["method"].to_pylist(), read["metric"].to_pylist(), strict=True)
        ]
    if len(set(keys)) != len(keys) or len(set(ids)) != len(ids):
        raise ValueError(f"{name}: {len(keys)} rows, {len(set(keys))} keys, {len(set(ids))} row ids")
    if "shard" in read.schema.names:
        for fragment in snapshot.dataset.get_fragments():
            shards = set(fragment.to_table(columns=["shard"])["shard"].to_pylist())
            if len(shards) > 1:
                raise ValueError(f"{name}: fragment {fragment.fragment_id} holds {sorted(shards)}")
    return dict(zip(keys, _comparable(read.drop_columns(["_rowid"])), strict=True))


def _comparable(table: pa.Table) -> list[dict[str, Any]]:
    """Rows whose big values are hashed: what differs is named by column anyway."""
    rows = table.to_pylist()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, bytes) and len(value) > 64:
                row[name] = hashlib.sha256(value).hexdigest()
            elif isinstance(value, list):
                row[name] = hashlib.sha256(np.asarray(value, np.float64).tobytes()).hexdigest()
    return rows


def _shard_digests(lake: Lake) -> dict[str, dict[str, str]]:
    graph = small_orchard.orchard()
    graph.prepare(lake)
    planner = Planner(lake, graph)
    stages = [stage for stage in graph.stages if isinstance(stage, RowStage)]
    return {stage.name: planner.table(stage.table).shard_digests(stage.name) for stage in stages}


def _result_files(root: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every finished file beside the tables."""
    for path in sorted(root.glob("releases/*.parquet")):
        rows = json.dumps(pq.read_table(path).to_pylist())
        yield str(path.relative_to(root)), hashlib.sha256(rows.encode()).hexdigest()
    for pattern in ("checkpoints/[!.]*/*", "training/*/losses.jsonl"):
        for path in sorted(root.glob(pattern)):
            yield str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()
