"""Many processes write one lake at once: no update is lost, nothing becomes unreadable.

Every test ends with the lake of a twin that one process wrote alone: same rows, same digests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.execution import run_stages
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

WRITER = Path(__file__).with_name("writer.py")
SHARDS = 8


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The writers' own module, for its stages and photographs."""
    spec = importlib.util.spec_from_file_location("writer", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def new_lake(tmp_path: Path, writer: ModuleType) -> Callable[[str], tuple[Lake, Path]]:
    """A lake of 48 photographs in eight shards with nothing computed, and its folder of photographs."""

    def make(name: str) -> tuple[Lake, Path]:
        root = tmp_path / name / "photos"
        for index in range(SHARDS * writer.SHARD_SIZE):
            person, shot = divmod(index, writer.SHARD_SIZE)
            writer.paint(root / f"p{person}" / f"{shot:02d}.png", 2 * index + 1)
        lake = Lake.open(tmp_path / name / "lake", create=True)
        ingest(lake, root, shard_size=writer.SHARD_SIZE)
        writer.stages().prepare(lake)
        return lake, root

    return make


def assert_sound(lake: Lake) -> None:
    """Every fragment can be read in full, and no row is there twice."""
    snapshot = lake.faces.snapshot()
    snapshot.dataset.validate()
    rows = snapshot.dataset.to_table(with_row_id=True)
    keys, row_ids = rows["image_id"].to_pylist(), rows["_rowid"].to_pylist()
    assert len(set(keys)) == len(keys) == len(set(row_ids))


def finish(lake: Lake, graph) -> dict[str, int]:
    return run_stages(lake, graph, graph.names, device="cpu").computed_rows


def test_eight_writers_of_eight_shards(new_lake, writer) -> None:
    lake, _ = new_lake("many")
    twin, _ = new_lake("twin")
    graph = writer.stages()
    shards = lake.faces.snapshot().shards()
    assert len(shards) == SHARDS
    writer.at_once(lake, *(("compute", shard, "level,edge,words", 2) for shard in shards))
    assert_sound(lake)
    assert finish(lake, graph) == {"level": 0, "edge": 0, "words": 0}
    states = lake.faces.snapshot().scan(["level_state.attempt", "edge_state.attempt"]).to_pylist()
    assert {row[name] for row in states for name in ("level_state.attempt", "edge_state.attempt")} == {2}
    assert finish(twin, graph) == {"level": 48, "edge": 48, "words": 48}
    assert writer.digests(lake, graph) == writer.digests(twin, graph)


def test_writers_of_one_shard(new_lake, writer) -> None:
    """Two processes compute the same stage, a third another stage of the same rows."""
    lake, _ = new_lake("many")
    graph = writer.stages()
    shard = "shard-00003"
    writer.at_once(
        lake,
        ("compute", shard, "level,words", 4),
        ("compute", shard, "level,words", 4),
        ("compute", shard, "edge", 4),
    )
    assert_sound(lake)
    assert finish(lake, graph) == {"level": 42, "edge": 42, "words": 42}
    twin, _ = new_lake("twin")
    finish(twin, graph)
    assert writer.digests(lake, graph) == writer.digests(twin, graph)


def test_writers_beside_an_ingest_a_compaction_and_a_clean_up(new_lake, writer) -> None:
    lake, root = new_lake("many")
    twin, twin_root = new_lake("twin")
    graph = writer.stages()
    removed = ["p6/01", "p6/04", "p7/00", "p7/03"]
    writer.at_once(
        lake,
        ("bring", root, 4),
        ("compact", ",".join(removed)),
        ("clean", 3),
        ("compute", "shard-00000", "level,edge,words", 4),
        ("compute", "shard-00000", "level,words", 4),
        ("compute", "shard-00001", "level,edge,words", 4),
        ("compute", "shard-00002", "level,edge,words", 4),
    )
    assert_sound(lake)
    left = finish(lake, graph)
    assert left["level"] <= 5 * writer.SHARD_SIZE + 8
    writer.bring(twin, twin_root, 4)
    twin.faces.delete(removed)
    finish(twin, graph)
    # the ingest of the contested lake may have seen removed rows before or after they went
    again = ingest(lake, root, shard_size=writer.SHARD_SIZE)
    lake.faces.delete(removed)
    assert again.replaced == 0
    finish(lake, graph)
    assert_sound(lake)
    values = [
        sorted(
            some.faces.snapshot().dataset.to_table(["image_id", "level", "edge", "words"]).to_pylist(),
            key=lambda row: row["image_id"],
        )
        for some in (lake, twin)
    ]
    assert values[0] == values[1]
    mine, theirs = writer.digests(lake, graph), writer.digests(twin, graph)
    fixed = [f"shard-{index:05d}" for index in range(6)]
    for name in theirs:
        assert [mine[name][shard] for shard in fixed] == [theirs[name][shard] for shard in fixed]
