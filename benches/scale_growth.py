"""How large a lake is, and what its growth per shard and per commit says of 100 million rows.

Nothing is fitted: what depends on rows or on shards is taken in proportion, and what every commit writes anew
(the manifest of the table, which names each shard's files) in proportion to shards times commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resources.lake.files import DATA, MANIFESTS, TRANSACTIONS, stored_files, stored_versions
from resources.lake.lake import Lake

FAR = 100_000_000
"""Rows of the outlook."""

GB, HOUR, DAY = 1e9, 3600.0, 86400.0


def lake_size(lake: Lake) -> dict[str, int]:
    """Rows, fragments, files and bytes of the photographs' table, and bytes of the whole lake."""
    table = lake.faces
    dataset = table.snapshot().dataset
    stored = stored_files(table)

    def held(folder: str) -> list[int]:
        return [item.size for name, item in stored.items() if name.startswith(f"{folder}/")]

    newest = max(stored_versions(table))
    manifest = f"{MANIFESTS}/{(1 << 64) - 1 - newest:020d}.manifest"
    fragments = dataset.get_fragments()
    return {
        "rows": dataset.count_rows(),
        "fragments": len(fragments),
        "files_of_the_newest_version": sum(len(fragment.data_files()) for fragment in fragments),
        "versions": len(held(MANIFESTS)),
        "newest_manifest_bytes": stored[manifest].size,
        "manifest_bytes": sum(held(MANIFESTS)),
        "transaction_bytes": sum(held(TRANSACTIONS)),
        "data_files": len(held(DATA)),
        "data_bytes": sum(held(DATA)),
        "lake_bytes": sum(path.stat().st_size for path in Path(lake.uri).rglob("*") if path.is_file()),
    }


def growth(parts: dict[str, Any]) -> dict[str, Any]:
    """Growth per shard and per commit, from what the parts measured."""
    ingested, staged = parts["ingest"]["lake"], parts["stages"]["lake"]
    shards, commits = staged["fragments"], staged["versions"] - ingested["versions"]
    told, backfill = parts["report"]["found"], parts["daemon"]["found"]
    before, after = backfill["history_before"], backfill["history_after"]
    return {
        "rows_per_shard": round(staged["rows"] / shards),
        "commits_of_two_stages": commits,
        "newest_manifest_bytes_per_shard": round(staged["newest_manifest_bytes"] / shards, 1),
        "manifest_bytes_written_per_commit": round(
            (staged["manifest_bytes"] - ingested["manifest_bytes"]) / commits
        ),
        "lake_bytes_per_row": round(staged["lake_bytes"] / staged["rows"]),
        "dagster_events_per_shard_and_stage_told": round(told["events"] / told["results"], 2),
        "dagster_bytes_per_result_told": round(told["history"]["history_bytes"] / told["results"]),
        "dagster_events_per_run": round((after["events"] - before["events"]) / backfill["runs"], 1),
        "dagster_bytes_per_run": round((after["history_bytes"] - before["history_bytes"]) / backfill["runs"]),
        "captured_output_bytes_per_run": round(
            (after["output_bytes"] - before["output_bytes"]) / backfill["runs"]
        ),
    }


def outlook(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """What 100 million rows would take in shards of the same size, by proportion, the worst first.

    `limit` is what one box of 64 GB, 1 TB and a day would bear; `times` is how often it is exceeded. Memory
    that a process has before it opens a lake is not multiplied.
    """
    sizes = parts["stages"]["lake"]
    factor = FAR / sizes["rows"]
    shards = sizes["fragments"] * factor
    manifests = shards * sizes["newest_manifest_bytes"] * factor
    per_run = parts["daemon"]["found"]["seconds_per_shard"]
    lines = [
        (
            "manifests",
            "manifests written by one stage's pass, before `orchard gc`",
            "GB",
            manifests / GB,
            1000,
        ),
        ("plan_memory", "memory of a plan", "GB", _memory(parts, "plan", factor), 64),
        ("release_memory", "memory of the release", "GB", _memory(parts, "release", factor), 64),
        (
            "refresh_memory",
            "memory of a refresh that finds nothing",
            "GB",
            _memory(parts, "refresh", factor),
            64,
        ),
        ("plan", "time of a plan", "hours", parts["plan"]["seconds"] * factor / HOUR, 1),
        (
            "refresh",
            "time of a refresh that finds nothing",
            "hours",
            parts["refresh"]["seconds"] * factor / HOUR,
            1,
        ),
        (
            "told",
            "telling Dagster of every result the first time",
            "hours",
            parts["report"]["seconds"] * factor / HOUR,
            24,
        ),
        ("ingest", "first ingest, processor time", "days", _cpu(parts["ingest"]) * factor / DAY, 7),
        (
            "backfill",
            "one stage's backfill through the daemon, a run per shard",
            "days",
            per_run * shards / DAY,
            1,
        ),
    ]
    found = [
        {
            "key": key,
            "what": what,
            "unit": unit,
            "value": round(value, 2),
            "limit": limit,
            "times": round(value / limit, 2),
        }
        for key, what, unit, value, limit in lines
    ]
    return sorted(found, key=lambda line: -line["times"])


def _memory(parts: dict[str, Any], name: str, factor: float) -> float:
    """Gigabytes: what the part took beyond a process that has only loaded our code, multiplied."""
    loaded = parts["photographs"]["peak_rss_mb"]
    return (loaded + max(parts[name]["peak_rss_mb"] - loaded, 0) * factor) / 1000


def _cpu(part: dict[str, Any]) -> float:
    return part["cpu_seconds"] + part["found"]["children_cpu_seconds"]
