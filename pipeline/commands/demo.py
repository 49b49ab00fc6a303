"""`orchard demo`: a small rendered world on disk, and the whole DAG over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.report import write_lake_report
from pipeline.dagster_sync import sync_instance
from pipeline.demo_photos import make_demo_photos
from pipeline.execution import run_stages
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
    open_graph,
    print_json,
)
from pipeline.profiles import profile as find_profile
from pipeline.progress import make_progress
from pipeline.report import collect
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.photos.pairs import read_swap_pairs

DEMO_SHARD_SIZE = 64
"""Small, so that the demo has several shards."""


def demo_command(
    folder: Annotated[Path, typer.Option(help="Where the demo's photographs lie, made if missing.")] = Path(
        "demo"
    ),
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Render a few hundred portraits of people who do not exist, ingest them, run every stage, report.

    Some are trained on; swapped and measured are the first pairs of the benchmark. Beside them lie two
    public-domain portraits, which are annotated and never swapped. A second run computes nothing. Photographs
    that you replace in the folder stay replaced.
    """
    photos = make_demo_photos(folder)
    opened = Lake.open(lake, create=True)
    folders = {
        "people": (photos.people, Consent.SYNTHETIC),
        "benchmark": (photos.benchmark, Consent.SYNTHETIC),
        "portraits": (photos.portraits, Consent.ANNOTATION_ONLY),
    }
    ingested = {
        name: ingest(opened, place, consent=consent, shard_size=DEMO_SHARD_SIZE)
        for name, (place, consent) in folders.items()
    }
    pairs = [pair for listed in photos.swap_pairs for pair in read_swap_pairs(listed)]
    store_swap_pairs(opened, swap_pair_rows(pairs))
    graph = open_graph(opened, profile)
    report = run_stages(opened, graph, graph.names, device=device, progress=make_progress())
    sync_instance(opened, graph)
    data = collect(opened, graph, profile=profile, description=find_profile(profile).description)
    place, _ = write_lake_report(opened, data)
    if json:
        print_json(
            {
                **report.as_json(),
                "ingested": {name: done.as_json() for name, done in ingested.items()},
                "report": place,
            }
        )
        return
    added = sum(done.added for done in ingested.values())
    computed = sum(report.computed_rows.values())
    typer.echo(
        f"{added} photographs ingested, {computed} rows computed in {report.seconds:.1f} s, report {place}"
    )
