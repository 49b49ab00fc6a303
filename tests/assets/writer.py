"""Many writers of a lake, each a process of its own, all at once: `python writer.py LAKE WRITERS`.

Run by test_many_writers.py and test_object_store.py, which also take the stages from here and start
the writers by `at_once`. The process that is started loads the libraries, once for all writers, and forks
them; it never opens a lake itself, for a process that has used Lance must not be forked.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from assets.planner import Planner
from assets.runner import run_shard
from assets.stage import Input, NoConfig, RowStage, StageContext, StageGraph
from resources.lake.errors import LakeError
from resources.lake.housekeeping import collect_garbage
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.purge import _rewrite, holding_fragments
from resources.lake.schema import Column

SIDE = 32
SHARD_SIZE = 6


START_SECONDS, WORK_SECONDS = 100, 200
"""How long writers wait for each other before they begin, and how long all may take, on a crowded machine."""


def at_once(lake: Lake, *writers: Sequence[object]) -> None:
    """Run writers as processes that begin together; each is (action, argument, ...)."""
    asked = json.dumps([[str(part) for part in writer] for writer in writers])
    done = subprocess.run(
        [sys.executable, __file__, lake.uri, asked],
        capture_output=True,
        text=True,
        timeout=START_SECONDS + WORK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def digests(lake: Lake, graph: StageGraph) -> dict[str, dict[str, str]]:
    """Data version of every shard, by stage."""
    table = Planner(lake, graph).table("faces")
    return {name: table.shard_digests(name) for name in table.stages}


def paint(path: Path, value: int) -> None:
    """Write an evenly grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(path)


def stages() -> StageGraph:
    """`level` from the pixels, `edge` from the pixels beside it, `words` from `level`."""

    def level(context: StageContext):
        return lambda rows: [{"level": float(row["image"].mean())} for row in rows]

    def edge(context: StageContext):
        return lambda rows: [{"edge": int(row["image"][0, 0, 0])} for row in rows]

    def words(context: StageContext):
        return lambda rows: [{"words": f"{row['level']:.0f} of 255"} for row in rows]

    photo = Input("faces", ("image",))
    return StageGraph(
        (
            _stage("level", (photo,), Column("level", pa.float32(), quantum=0.01), level),
            _stage("edge", (photo,), Column("edge", pa.int16()), edge),
            _stage("words", (Input("level", ("level",)),), Column("words", pa.string()), words),
        )
    )


def _stage(name: str, inputs: tuple[Input, ...], column: Column, load) -> RowStage:
    return RowStage(
        name=name,
        code_version="1",
        description=name,
        config=NoConfig(),
        inputs=inputs,
        outputs=(column,),
        load=load,
        batch_size=2,
    )


def compute(lake: Lake, shard: str, names: str, times: str) -> None:
    """Run stages over a shard; after the first time by force."""
    graph = stages()
    for turn in range(int(times)):
        for stage in graph.row_stages():
            if stage.name in names.split(","):
                run_shard(lake, graph, stage, shard, device="cpu", force=turn > 0, report=lambda text: None)


def bring(lake: Lake, root: str, turns: str) -> None:
    """Ingest again and again: in each turn one photograph is changed and one is new."""
    for turn in range(int(turns)):
        paint(Path(root) / "p0" / f"{turn:02d}.png", 200 + turn)
        paint(Path(root) / "new" / f"{turn:02d}.png", 100 + turn)
        ingest(lake, Path(root), shard_size=SHARD_SIZE)


def take(lake: Lake, *roots: str) -> None:
    """Ingest folders one after another, each as soon as nobody else ingests."""
    for root in roots:
        ingest(lake, Path(root), shard_size=SHARD_SIZE, wait_seconds=120)


def compact(lake: Lake, keys: str) -> None:
    """Delete rows one after another and write the fragments that held them anew."""
    for key in keys.split(","):
        lake.faces.delete([key])
        _rewrite(lake.faces, holding_fragments(lake.faces, ["image_id"], pa.array([key])))


def clean(lake: Lake, seconds: str) -> None:
    """Collect garbage as often as the others leave room for it."""
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        try:
            collect_garbage(lake, keep_seconds=0.0, safety_seconds=0.0)
        except LakeError as error:
            if "another process is computing" not in str(error):
                raise
        time.sleep(0.1)


ACTIONS = {action.__name__: action for action in (compute, bring, take, compact, clean)}


def write(start: Barrier, uri: str, action: str, *arguments: str) -> None:
    """One writer: open the lake, wait for all others, and act."""
    lake = Lake.open(uri)
    start.wait(START_SECONDS)
    ACTIONS[action](lake, *arguments)


def main(uri: str, asked: str) -> int:
    """Fork the writers and wait for them; 0 when every one of them succeeded."""
    # true of a process that has used it; this one only imports it, and the children open the lake
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    writers = json.loads(asked)
    forked = multiprocessing.get_context("fork")
    start = forked.Barrier(len(writers))
    processes = [forked.Process(target=write, args=(start, uri, *writer)) for writer in writers]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
