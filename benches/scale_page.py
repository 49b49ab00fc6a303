"""docs/scale.md: the figures of `benches.scale`, and what they say of 100 million rows.

Run `python -m benches.scale_page` after the bench. It writes the part between the page's two marks from
benches/results/scale.json alone and leaves the rest as people wrote it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.scale import RESULT

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN = "<!-- written by `python -m benches.scale_page`; edit nothing up to the end of figures -->"
END = "<!-- end of figures -->"

FEW_ROWS = 1_000_000
TOO_FEW = (
    f"**Fewer than {FEW_ROWS:,} rows were measured: what a process costs whatever it does is multiplied too, "
    "so these figures are far too high. They show what the page looks like, nothing else.**"
)

SAID = {
    "photographs": "write the files (not measured: it is the bench's own work)",
    "ingest": "`orchard ingest`: read, hash, inspect in the child process, store",
    "stages": "`orchard run` of two row stages in one pass",
    "release": "the release over all rows",
    "report": "tell Dagster of every shard of every stage, and run their checks",
    "plan": "`orchard plan`, nothing stale",
    "refresh": "scheduled refresh, nothing changed",
    "one_changed": "one photograph changed: refresh, two rows computed, a new release",
    "code_bump": "the first stage's code changed, its results did not: one stage again, nothing below",
    "daemon": "backfill of the second stage through webserver and daemon",
    "gc": "`orchard gc`",
}

REMEDIES = {
    "manifests": "Every commit writes the table's manifest anew, which names each shard's files; so the sum "
    "grows with the square of the shards. Sixteen times larger shards write 256 times less.",
    "plan_memory": "A plan holds fingerprint and digest of every row of every stage at once. Planning shard "
    "by shard, as a run of one shard does already, bounds it.",
    "release_memory": "The release holds key, person, consent and digests of every row as Python objects, "
    "where columns of Arrow could be hashed as they stream by.",
    "refresh_memory": "An ingest knows every file's name, size and time at once. Sorted files compared with "
    "sorted rows need neither in memory.",
    "plan": "Proportional to rows times stages; the shards' plans are independent of each other.",
    "refresh": "The walk over all files takes {discover:.0%} of it here. A list of changes from the store "
    "instead of a walk takes that away.",
    "told": "One event, and one per check, for every shard and stage, each a transaction of its own. It is "
    "done once; larger shards make fewer.",
    "ingest": "One process reads and one child inspects, and ingests of a lake wait for each other.",
    "backfill": "Each run is a process that loads our code and Dagster's before it computes. `orchard run` "
    "does the same in one process and tells Dagster at its end; larger shards make fewer runs.",
}
"""What each line of the outlook comes from, and what would change it."""


def figures(result: dict[str, Any]) -> str:
    """The generated part of the page."""
    return "\n".join(
        [
            *_measured(result),
            "",
            *_found(result["parts"], result["size"]),
            "",
            *_lake(result["parts"]),
            "",
            *_growth(result["growth"], result["parts"]),
            "",
            *_outlook(result["outlook_100_million"], result["parts"], result["size"]["rows"]),
        ]
    )


def _measured(result: dict[str, Any]) -> list[str]:
    size, machine, versions = result["size"], result["machine"], result["versions"]
    lines = [
        f"Measured {result['date'][:10]}: {size['rows']:,} photographs, {size['shards']} shards, "
        f"{size['row_stages']} row stages; cores: {machine['cores']} ({machine['processor']}), Lance "
        f"{versions['pylance']}, Dagster {versions['dagster']}.",
        "",
        "```",
        result["command"],
        "```",
        "",
        "| part | seconds | CPU seconds | peak memory, MB | load of the machine |",
        "|---|---|---|---|---|",
    ]
    for name, said in SAID.items():
        part = result["parts"][name]
        found = part["found"]
        others = found.get("cpu_seconds_of_all_processes", found["children_cpu_seconds"])
        cells = [
            said,
            f"{part['seconds']:,.1f}",
            f"{part['cpu_seconds'] + others:,.1f}",
            f"{part['peak_rss_mb']:,}",
            str(part["load_average"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _found(parts: dict[str, Any], size: dict[str, Any]) -> list[str]:
    changed, bump, daemon = (parts[name]["found"] for name in ("one_changed", "code_bump", "daemon"))
    first, second = "aesthetics", "identity_embedding"
    left = f"left {bump['left']} stale" if bump["left"] else "left nothing stale"
    hours = daemon["all_shards_seconds_extrapolated"] / 3600
    return [
        f"The changed photograph cost {changed['computed'][first]} row of the first stage and "
        f"{changed['computed'][second]} of the second. The code bump computed {bump['computed'][first]:,} "
        f"rows of the first and {bump['computed'][second]} of the second, and {left}.",
        "",
        f"The daemon's backfill covered {daemon['shards']} of {size['shards']} shards: "
        f"{daemon['seconds']:,.0f} s, which is {daemon['seconds_per_shard']:.1f} s per shard; a run lasted "
        f"{daemon['median_seconds_of_a_run']:.1f} s, and all Dagster processes together held "
        f"{daemon['peak_rss_mb_of_all_processes']:,} MB. All {size['shards']} shards would take "
        f"{hours:.1f} hours: that is multiplied, not measured.",
    ]


def _lake(parts: dict[str, Any]) -> list[str]:
    lines = [
        "| after | lake, MB | data files | versions | newest manifest, KB | all manifests, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name in SAID:
        if "lake" in parts[name]:
            lake = parts[name]["lake"]
            lines.append(
                f"| `{name}` | {lake['lake_bytes'] / 1e6:,.1f} | {lake['data_files']:,} | "
                f"{lake['versions']:,} | {lake['newest_manifest_bytes'] / 1e3:,.1f} | "
                f"{lake['manifest_bytes'] / 1e6:,.1f} |"
            )
    return lines


def _growth(grown: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    told, daemon = parts["report"]["found"]["history"], parts["daemon"]["found"]
    after = daemon["history_after"]
    rows = {
        "rows of a shard": "rows_per_shard",
        "bytes of the newest manifest per shard, with two stages": "newest_manifest_bytes_per_shard",
        "bytes of manifest written per commit": "manifest_bytes_written_per_commit",
        "bytes of the lake per row, with both stages": "lake_bytes_per_row",
        "Dagster events per result told by `orchard run`": "dagster_events_per_shard_and_stage_told",
        "bytes of SQLite per result told": "dagster_bytes_per_result_told",
        "Dagster events per run of the backfill": "dagster_events_per_run",
        "bytes of SQLite per run of the backfill": "dagster_bytes_per_run",
        "bytes of captured output per run": "captured_output_bytes_per_run",
    }
    return [
        "| growth | |",
        "|---|---|",
        *(f"| {said} | {grown[key]:,} |" for said, key in rows.items()),
        "",
        f"Dagster's event log held {told['events']:,} events in {told['history_bytes'] / 1e6:.1f} MB when "
        f"every result was told, and {after['events']:,} in {after['history_bytes'] / 1e6:.1f} MB after the "
        f"backfill of {daemon['shards']} shards.",
    ]


def _outlook(outlook: list[dict[str, Any]], parts: dict[str, Any], rows: int) -> list[str]:
    refresh = parts["refresh"]
    shares = {"discover": refresh["found"]["seconds_of"]["discover"] / refresh["seconds"]}
    lines = [
        "### What would break first at 100 million rows",
        "",
        "By proportion from the figures above, in shards of the same size, on one box of 64 GB with 1 TB for "
        "the lake; nothing of it was run. *Times* is how often the figure exceeds what is bearable.",
        "",
        *([] if rows >= FEW_ROWS else [TOO_FEW, ""]),
        "| what | at 100 million | bearable | times |",
        "|---|---|---|---|",
    ]
    for line in outlook:
        unit = line["unit"]
        cells = [line["what"], f"{line['value']:,} {unit}", f"{line['limit']:,} {unit}", f"{line['times']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "In that order:", ""]
    for line in outlook:
        what = line["what"][0].upper() + line["what"][1:]
        lines.append(f"- **{what}.** {REMEDIES[line['key']].format(**shares)}")
    return lines


def page_with(text: str, result: dict[str, Any]) -> str:
    """The page with its figures made anew. Raises ValueError when its marks are gone."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{figures(result)}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args(arguments)
    result = json.loads(chosen.result.read_text(encoding="utf-8"))
    chosen.page.write_text(page_with(chosen.page.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main()
