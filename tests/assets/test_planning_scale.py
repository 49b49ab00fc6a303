"""Planning keeps arrays, not Python objects: the bench's lake, seventy-five times smaller."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from assets.planner import Planner
from assets.stage import ArtifactStage, Input, NoConfig, RowStage, StageGraph
from benches.planning import plan_everything
from benches.synthetic_lake import (
    MODIFIED_NS,
    RELEASE_INPUTS,
    UPSTREAM,
    add_pairs,
    build_lake,
    build_photographs,
    change_one_row,
    photo_bytes,
    synthetic_graph,
)
from pipeline.execution import run_stages
from resources.lake.digest import digest_bytes, shard_digest
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import DIGEST_BYTES, Column, state_column
from resources.lake.table import Snapshot

SHARDS, ROWS_PER_SHARD = 8, 2500


@pytest.fixture(scope="module")
def big_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return build_lake(tmp_path_factory.mktemp("planning") / "lake", SHARDS, ROWS_PER_SHARD)


def test_planning_twenty_thousand_rows_is_cheap(big_lake: Lake) -> None:
    """About 0.2 s and 5 MB; a Python object for every digest alone would be 12 MB."""
    graph = synthetic_graph()
    plan_everything(big_lake, graph)  # whatever is loaded once is loaded
    started = time.process_time()
    assert plan_everything(big_lake, graph) == {"stale_rows": 0, "waiting_rows": 0, "why": {}}
    assert time.process_time() - started < 5
    tracemalloc.start()
    plan_everything(big_lake, graph)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_release_is_planned_from_the_digest_of_all_rows(big_lake: Lake) -> None:
    planner = Planner(big_lake, synthetic_graph(release=True))
    plan = planner.artifact("release")
    parts = [bytes.fromhex(naive_digests(big_lake, name)[None]) for name in RELEASE_INPUTS]
    assert plan.expected == planner.graph["release"].prefix + b"".join(parts)


def scans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Collects table and shard of every scan that a plan makes from now on."""
    made: list[tuple[str, str | None]] = []
    scan_chunks = Snapshot.scan_chunks

    def counted(self: Snapshot, columns: Sequence[str], *, shard: str | None = None) -> Iterator[pa.Table]:
        made.append((Path(self.table.uri).stem, shard))
        return scan_chunks(self, columns, shard=shard)

    monkeypatch.setattr(Snapshot, "scan_chunks", counted)
    return made


def test_a_run_with_nothing_stale_reads_the_table_once(
    big_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scans(monkeypatch)
    report = run_stages(big_lake, synthetic_graph(), tuple(UPSTREAM))
    assert report.computed_rows == dict.fromkeys(UPSTREAM, 0)
    assert made == [("faces", None)]


def test_after_one_changed_file_only_its_shard_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real ingest, and the twelve stages for one row; no other photograph is opened."""
    photographs = tmp_path / "photographs"
    build_photographs(photographs, 300)
    lake = build_lake(tmp_path / "lake", 3, 100, photographs)
    changed = photographs / "p000006" / "03.png"
    for path in photographs.rglob("*.png"):
        if path != changed:
            path.write_bytes(b"\0" * path.stat().st_size)  # whoever reads it finds no photograph
            os.utime(path, ns=(MODIFIED_NS, MODIFIED_NS))
    changed.write_bytes(photo_bytes(140))
    ingested = ingest(lake, photographs, layout="identity-folders")
    assert (ingested.unchanged, ingested.replaced, ingested.quarantined) == (299, 1, {})
    made = scans(monkeypatch)
    report = run_stages(lake, synthetic_graph(), tuple(UPSTREAM))
    assert report.computed_rows == dict.fromkeys(UPSTREAM, 1)
    assert made[0] == ("faces", None)
    assert set(made[1:]) == {("faces", "shard-00001")}
    monkeypatch.undo()
    assert plan_everything(lake, synthetic_graph())["stale_rows"] == 0
    landmarks = lake.faces.snapshot().find(["p000006/03", "p000006/04"], ["landmarks"])
    assert landmarks["p000006/03"]["landmarks"] == 140 % 100


def test_shards_of_pairs_read_the_photographs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = build_lake(tmp_path / "lake", 2, 100)
    add_pairs(lake, 2, 30)
    graph = synthetic_graph(pairs=True)
    made = scans(monkeypatch)
    first = Planner(lake, graph)
    assert not first.table("triplets", "triplets-00000").stages["swapped"].stale.any()
    second = Planner(lake, graph, earlier=first)
    assert not second.table("triplets", "triplets-00001").stages["swapped"].stale.any()
    assert made.count(("faces", None)) == 1
    change_one_row(lake)
    third = Planner(lake, graph, earlier=second)
    third.table("triplets", "triplets-00000")
    assert made.count(("faces", None)) == 2, "photographs that changed since are read again"
    forced = Planner(lake, graph, forced=["latents"], earlier=third)
    assert forced.table("triplets", "triplets-00000").stages["swapped"].waiting.all()


def naive_digests(lake: Lake, stage: str) -> dict[str | None, str]:
    """Digest of every shard, and of all rows under None, made one Python object at a time."""
    column = f"{state_column(stage)}.digest"
    groups: dict[str | None, list[tuple[str, bytes]]] = {}
    for row in lake.faces.snapshot().scan(["image_id", "shard", column]).to_pylist():
        groups.setdefault(row["shard"], []).append((row["image_id"], row[column] or b""))
    every = sorted(pair for pairs in groups.values() for pair in pairs)
    rows = b"".join(digest_bytes(key.encode(), digest) for key, digest in every)
    whole = hashlib.blake2b(rows, digest_size=DIGEST_BYTES).hexdigest()
    return {group: shard_digest(pairs) for group, pairs in groups.items()} | {None: whole}


def test_one_changed_row_is_found_and_digests_stay_what_they_were(tmp_path: Path) -> None:
    lake = build_lake(tmp_path / "lake", 3, 100)
    before = Planner(lake, synthetic_graph()).table("faces").shard_digests("faces")
    change_one_row(lake)
    change = plan_everything(lake, synthetic_graph())
    first = [name for name, why in change["why"].items() if why == {"input:faces": 1}]
    assert change["stale_rows"] == len(first) == 10
    table = Planner(lake, synthetic_graph()).table("faces")
    after = table.shard_digests("faces")
    assert [shard for shard in before if before[shard] != after[shard]] == ["shard-00001"]
    # the replaced row is stored last now, so rows are no longer in key order
    for stage in ("faces", "latents"):
        naive = naive_digests(lake, stage)
        assert table.shard_digests(stage) | {None: table.digest(stage).hex()} == naive
    alone = Planner(lake, synthetic_graph()).table("faces", "shard-00001")
    assert alone.shard_digests("faces") == {"shard-00001": after["shard-00001"]}


def test_shards_and_positions_of_a_plan(big_lake: Lake) -> None:
    table = Planner(big_lake, synthetic_graph()).table("faces")
    assert len(table) == SHARDS * ROWS_PER_SHARD
    chosen = table.shards == "shard-00003"
    chosen[0] = True
    assert table.shard_counts(chosen) == {"shard-00000": 1, "shard-00003": ROWS_PER_SHARD}
    keys = pa.array([table.keys[7], "nobody/00", table.keys[19_999]])
    assert table.positions(keys).tolist() == [7, -1, 19_999]
    assert table.index[table.keys[7]] == 7


def test_only_the_plan_of_one_shard_keeps_fingerprints(big_lake: Lake) -> None:
    planner = Planner(big_lake, synthetic_graph({"iris": "2"}))
    with pytest.raises(ValueError, match="plan one shard"):
        _ = planner.table("faces").stages["iris"].stored
    rows = planner.table("faces", "shard-00002").stages["iris"]
    assert rows.stored[0].as_py()[:8] != rows.expected[0].as_py()[:8]
    assert rows.stored[0].as_py()[8:] == rows.expected[0].as_py()[8:]


def test_a_row_stage_may_depend_on_an_artifact_of_the_same_table(lake, graph, run_all) -> None:
    """`share` compares a photo with the sum over all photos: its stage is planned after that sum."""

    def load(context):
        total = context.lake.current_artifact("total")
        return lambda rows: [{"share": 100 * row["band"] // total.metadata["total"]} for row in rows]

    share = RowStage(
        name="share",
        code_version="1",
        description="Share of all bands in percent.",
        config=NoConfig(),
        inputs=(Input("band", ("band",)), Input("total")),
        outputs=(Column("share", pa.int16()),),
        load=load,
    )
    assert isinstance(graph["total"], ArtifactStage)
    wider = StageGraph((*graph.stages, share))
    wider.prepare(lake)
    planner = Planner(lake, wider)
    assert planner.plan(share).waiting_rows == 12
    assert run_all(lake, wider)["share"] == 12
    bumped = dataclasses.replace(graph["total"], code_version="2")
    changed = StageGraph((*graph.stages[:-1], bumped, share))
    assert Planner(lake, changed).plan(share).waiting_rows == 12
    assert run_all(lake, changed) == {"brightness": 0, "band": 0, "caption": 0, "total": 1, "share": 0}
