"""What keeping models warm is worth: 16 shards and a model of 6 s to load, by four ways of computing them.

Run `python -m benches.engine`; the table goes to benches/results/engine.json. The model is a stand-in that
sleeps, as a driver does while a GPU computes: `--load-seconds` to load, `--row-seconds` a row. The rest is
real: small PNGs in a lake, decoded, handed in batches to the model, results committed. The same rows are
computed by one process, by Ray actors that have to be started, by the same actors when they are warm (all and
one of them), and by what one would write with Ray alone: `read_lance`, `map_batches` on a pool of actors, and
the results into a table of their own. Every way runs in a fresh process, the last four in the same cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from assets.engine import Engine, LocalEngine
from assets.planner import Planner
from benches.measuring import measured, write_result
from benches.slow_model import BATCH, DecodeAndLevel, stand_in_graph
from pipeline.execution import run_stages
from resources.compute.engine_choice import EngineChoice
from resources.compute.ray_cluster import (
    FOLDER_VARIABLE,
    connect,
    own_cluster,
    start_own_cluster,
    stop_own_cluster,
)
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

PHOTOS_OF_A_PERSON = 20
SIDE = 48


def settings(uri: str) -> dict[str, Any]:
    """What was asked for on the command line; the measured processes find it beside the lake."""
    return json.loads((Path(uri).parent / "settings.json").read_text(encoding="utf-8"))


def make_lake(uri: str, shards: int, rows: int) -> None:
    """Photographs of so many rows in all, and a lake of so many shards with one fragment each."""
    photos = Path(uri).parent / "photos"
    random = np.random.default_rng(0)
    for index in range(rows):
        person, photo = divmod(index, PHOTOS_OF_A_PERSON)
        path = photos / f"p{person:05d}" / f"{photo:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.full((SIDE, SIDE, 3), random.integers(0, 255, 3, dtype=np.uint8))
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    lake = Lake.open(uri, create=True)
    ingest(lake, photos, shard_size=-(-rows // shards), consent=Consent.SYNTHETIC)


def compute(uri: str, engine: Engine) -> dict[str, Any]:
    """All rows of the stage, whether they are stale or not."""
    asked, lake = settings(uri), Lake.open(uri)
    graph = stand_in_graph(asked["load_seconds"], asked["row_seconds"])
    graph.prepare(lake)
    done = run_stages(lake, graph, ["level"], force=True, device="cpu", engine=engine)
    table = Planner(lake, graph).table("faces")
    return {
        "rows": done.computed_rows["level"],
        "model_seconds": round(done.model_seconds["level"], 2),
        "digest": table.digest("level").hex(),
    }


def by_ray(uri: str, actors: int) -> dict[str, Any]:
    """By actors of the cluster."""
    from assets.engine_ray import RayEngine

    return compute(uri, RayEngine(EngineChoice("ray", "the bench", actors=actors)))


def in_process(uri: str) -> dict[str, Any]:
    """By this process alone."""
    return compute(uri, LocalEngine())


def all_actors(uri: str) -> dict[str, Any]:
    """By as many actors as were asked for."""
    return by_ray(uri, settings(uri)["actors"])


def one_actor(uri: str) -> dict[str, Any]:
    """By one actor."""
    return by_ray(uri, 1)


def plain_ray_data(uri: str) -> dict[str, Any]:
    """Ray Data alone, over the same table: no fingerprints, no quarantine, results in their own table."""
    connect(None, "plain")
    import ray.data

    asked, target = settings(uri), f"{Path(uri).parent}/levels.lance"
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_lance(f"{uri}/faces.lance", columns=["image_id", "image"])
    mapped = rows.map_batches(
        DecodeAndLevel,
        fn_constructor_args=(asked["load_seconds"], asked["row_seconds"]),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=asked["actors"]),
    )
    import lance

    # not `write_lance`: that of Ray 2.60 calls pylance 14 with an argument that it no longer has
    references: Any = mapped.to_arrow_refs()
    results = pa.concat_tables(ray.get(references))
    return {"rows": lance.write_dataset(results, target).count_rows()}


def end_actors(uri: str) -> dict[str, Any]:
    """End the warm actors: the next way needs the cores."""
    from resources.compute import ray_actors

    connect(None, "bench")
    actors = ray_actors.named_actors()
    ray_actors.end(actors)
    return {"ended": len(actors)}


def measure_all(uri: str, asked: dict[str, Any]) -> dict[str, Any]:
    """All ways in turn, on a cluster of this machine."""
    table: dict[str, Any] = {"in_process": measured(in_process, uri)}
    started, was_there = time.monotonic(), own_cluster() is not None
    # Ray Data's readers take cores besides the pool's
    start_own_cluster(num_cpus=asked["actors"] + 2)
    table["cluster_start"] = {"seconds": round(time.monotonic() - started, 2)}
    try:
        table["ray_cold"] = measured(all_actors, uri)
        table["ray_warm"] = measured(all_actors, uri)
        table["ray_warm_one_actor"] = measured(one_actor, uri)
        measured(end_actors, uri)
        table["plain_ray_data"] = measured(plain_ray_data, uri)
    finally:
        if not was_there:
            stop_own_cluster()
    return table


def ratios(table: dict[str, Any]) -> dict[str, float]:
    """What the claim is about: time of the warm ways over the model's own time, and over the other ways."""
    own = table["ray_warm"]["found"]["model_seconds"]
    warm, one = table["ray_warm"]["seconds"], table["ray_warm_one_actor"]
    return {
        "warm_over_model_time": round(warm / own, 3),
        "warm_one_actor_over_model_time": round(one["seconds"] / one["found"]["model_seconds"], 3),
        "in_process_over_warm": round(table["in_process"]["seconds"] / warm, 2),
        "cold_over_warm": round(table["ray_cold"]["seconds"] / warm, 2),
        "plain_ray_data_over_warm": round(table["plain_ray_data"]["seconds"] / warm, 2),
    }


class Quick:
    """The short form: warm actors against Ray Data alone, on a small lake and a cluster of its own."""

    ASKED: ClassVar[dict[str, Any]] = {"load_seconds": 2.0, "row_seconds": 0.005, "actors": 2}

    def __init__(self) -> None:
        # Ray's sockets lie in it, whose names must be short
        self.folder = Path(tempfile.mkdtemp(prefix="ob-")).resolve()
        self.uri = str(self.folder / "lake")
        self.before = os.environ.get(FOLDER_VARIABLE)
        os.environ[FOLDER_VARIABLE] = str(self.folder / "ray")
        (self.folder / "settings.json").write_text(json.dumps(self.ASKED), encoding="utf-8")
        make_lake(self.uri, shards=4, rows=256)
        # actors that stay warm hold their cores beside those of Ray Data's pool and readers
        start_own_cluster(num_cpus=2 * self.ASKED["actors"] + 2)

    def __call__(self) -> dict[str, float]:
        """One turn of each."""
        ours, theirs = measured(all_actors, self.uri), measured(plain_ray_data, self.uri)
        shutil.rmtree(self.folder / "levels.lance")
        return {"seconds by warm actors over Ray Data alone": ours["seconds"] / theirs["seconds"]}

    def close(self) -> None:
        """Stop the cluster and remove everything."""
        stop_own_cluster()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.pop(FOLDER_VARIABLE)
        if self.before is not None:
            os.environ[FOLDER_VARIABLE] = self.before


def quick(folder: Path) -> Quick:
    """The short form; its folder is another one, with a short name."""
    return Quick()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the lake, measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--rows", type=int, default=6400)
    parser.add_argument("--load-seconds", type=float, default=6.0)
    parser.add_argument("--row-seconds", type=float, default=0.005)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument(
        "--ray-folder",
        type=Path,
        help="Where a cluster of your own lies or is made; else a new one.",
    )
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="ob-"))  # Ray's sockets lie in it, whose names must be short
    os.environ[FOLDER_VARIABLE] = str(chosen.ray_folder or folder / "ray")
    uri = str(folder.resolve() / "lake")
    asked = {name: getattr(chosen, name) for name in ("load_seconds", "row_seconds", "actors")}
    (folder / "settings.json").write_text(json.dumps(asked), encoding="utf-8")
    try:
        make_lake(uri, chosen.shards, chosen.rows)
        table = measure_all(uri, asked)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    digests = {item["found"]["digest"] for item in table.values() if "digest" in item.get("found", {})}
    if len(digests) != 1:
        raise SystemExit(f"the engines disagree: {digests}")
    facts = {
        "lake": {"shards": chosen.shards, "rows": chosen.rows, **asked},
        "bar": {"warm_over_model_time": 1.1},
        "ratios": ratios(table),
        "table": table,
    }
    command = ["python", "-m", "benches.engine", *(sys.argv[1:] if arguments is None else arguments)]
    write_result(chosen.result, command, ("ray", "pylance", "pyarrow"), facts)


if __name__ == "__main__":
    main()
