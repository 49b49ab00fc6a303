"""One of many writers of a lake, as a process of its own: `python writer.py ACTION LAKE [ARGUMENT]...`.

Run by test_many_writers.py and test_object_store.py, which also take the stages from here and start
the writers by `at_once`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
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


def at_once(lake: Lake, *writers: Sequence[object]) -> None:
    """Run writers as processes that begin together; each is (action, argument, ...)."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(action), lake.uri, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for action, *arguments in writers
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise AssertionError(process.communicate()[1])
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


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


def main(arguments: Sequence[str]) -> None:
    """Open the lake, say so, wait for the word, and act: all writers begin together."""
    action, uri, *rest = arguments
    lake = Lake.open(uri)
    print("ready", flush=True)
    sys.stdin.readline()
    ACTIONS[action](lake, *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
