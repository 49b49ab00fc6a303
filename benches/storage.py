"""What ten reruns of a stage leave on the disk, before and after `orchard gc`.

Run `python -m benches.storage`; the figures go to benches/results/storage.json. The lake is one of rendered
portraits with every stage of the profile `smoke` run once, so its release is tagged and keeps what it needs.
Each stage is rerun on a copy of its own. Bytes are those of all files of the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benches.measuring import Repetition
from models.worlds.portraits import write_portraits
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.housekeeping import collect_garbage
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.photos.pairs import read_swap_pairs

PROFILE = "smoke"
STAGES = ("landmarks", "masks", "latents", "release", "pseudo_triplets", "teacher")
"""Stages that are rerun: small and large columns, rows of photographs and pairs, a release, a checkpoint."""

RERUNS = 10
BAR = 1.2
"""How much larger than after one run a lake may be after the reruns and a clean-up."""


def bytes_of(folder: Path) -> int:
    """Bytes of all files of a lake."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def build_lake(root: Path, people: int, photos: int, size: int, shard_size: int) -> Path:
    """Render portraits into `root`, ingest them and run every stage once; returns the lake's folder."""
    portraits = write_portraits(
        root / "portraits", identities=people, photos=photos, size=size, swap_pairs=people, held_out=2
    )
    lake = Lake.open(root / "lake", create=True)
    ingest(lake, root / "portraits" / "photos", shard_size=shard_size, consent=Consent.SYNTHETIC)
    store_swap_pairs(lake, swap_pair_rows(read_swap_pairs(portraits.root / "swap_pairs.csv")))
    graph = profile(PROFILE).graph()
    graph.prepare(lake)
    run_stages(lake, graph, graph.names, device="cpu")
    return root / "lake"


def quick(folder: Path) -> Repetition:
    """Portraits with masks, which are made five times more: bytes after a clean-up over one clean run's."""
    portraits = write_portraits(folder / "portraits", identities=2, photos=1, size=192, swap_pairs=0)
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, portraits.root / "photos", consent=Consent.SYNTHETIC)
    graph = profile(PROFILE).graph()
    graph.prepare(lake)
    run_stages(lake, graph, ["landmarks", "masks"], device="cpu")
    collect_garbage(lake, keep_seconds=0, safety_seconds=0)
    once = bytes_of(folder / "lake")

    def repeat() -> dict[str, float]:
        own = shutil.copytree(folder / "lake", folder / "copy")
        copy = Lake.open(own)
        for _ in range(RERUNS // 2):
            run_stages(copy, graph, ["masks"], force=True, device="cpu")
        collect_garbage(copy, keep_seconds=0, safety_seconds=0)
        kept = bytes_of(own)
        shutil.rmtree(own)
        return {"bytes after reruns and clean-up over those of one run": kept / once}

    return repeat


def rerun_and_clean(lake_folder: Path, stage: str, reruns: int) -> dict[str, Any]:
    """Figures of one stage: bytes after one run, after the reruns, and after `orchard gc --older-than 0`."""
    once = bytes_of(lake_folder)
    lake, graph = Lake.open(lake_folder), profile(PROFILE).graph()
    computed = [
        run_stages(lake, graph, [stage], force=True, device="cpu").computed_rows[stage] for _ in range(reruns)
    ]
    if not all(computed):
        raise RuntimeError(f"{stage}: the forced reruns computed {computed} rows")
    grown = bytes_of(lake_folder)
    command = ["gc", "--lake", str(lake_folder), "--older-than", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command], capture_output=True, text=True, check=True
    )
    kept = bytes_of(lake_folder)
    return {
        "rows_per_rerun": computed[0],
        "bytes_after_one_run": once,
        "bytes_after_reruns": grown,
        "bytes_after_gc": kept,
        "bytes_gc_says_it_freed": json.loads(done.stdout)["bytes"],
        "amplification_before_gc": round(grown / once, 3),
        "amplification_after_gc": round(kept / once, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the lake, measure every stage, print and write the result file; 0 when all are under the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="Side of a photograph, px.")
    parser.add_argument("--shard-size", type=int, default=16)
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "storage.json")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="orchard-storage-") as folder:
        root = Path(folder)
        built = build_lake(root, chosen.people, chosen.photos, chosen.size, chosen.shard_size)
        rows = {
            name: Lake.open(built).table(name).snapshot().count() for name in ("faces", "triplets", "swaps")
        }
        for stage in chosen.stages:
            own = shutil.copytree(built, root / stage)
            figures[stage] = rerun_and_clean(own, stage, RERUNS)
            shutil.rmtree(own)
            print(stage, json.dumps(figures[stage]), flush=True)
    result = {
        "command": " ".join(["python", "-m", "benches.storage", *(arguments or sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("pylance", "pyarrow")},
        "lake": {"profile": PROFILE, "rows": rows, "photograph_px": chosen.size},
        "reruns": RERUNS,
        "bar": {"amplification_after_gc": BAR},
        "worst_amplification_after_gc": max(item["amplification_after_gc"] for item in figures.values()),
        "seconds": round(time.monotonic() - started, 1),
        "figures": figures,
    }
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["worst_amplification_after_gc"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
