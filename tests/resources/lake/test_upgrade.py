"""A lake of an older Orchard: what it lacks is added where that is safe, and refused in one sentence else."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from resources.lake.digest import digest_bytes
from resources.lake.errors import LakeError
from resources.lake.ingest import ingest
from resources.lake.lake import Artifact, Lake
from resources.lake.pairs import pinned_pairs, store_swap_pairs
from resources.lake.upgrade import bring_up_to_date


def test_a_lake_of_today_is_left_as_it_is(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    version = lake.faces.snapshot().version
    assert bring_up_to_date(lake) == []
    assert lake.faces.snapshot().version == version


def test_missing_columns_and_tables_come_back_with_what_old_rows_meant(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    artifact = Artifact("teacher", b"fingerprint", digest_bytes(b"made"), "1")
    lake.record_artifact(artifact)
    lance.dataset(lake.faces.uri).drop_columns(["consent", "orientation"])
    lance.dataset(lake.artifacts.uri).drop_columns(["recipe"])
    shutil.rmtree(lake.swap_pairs.uri)
    opened = Lake.open(lake.uri)
    assert opened.current_artifact("teacher") == artifact
    rows = opened.faces.snapshot().scan(["consent", "orientation"])
    assert set(rows["consent"].to_pylist()) == {"unknown"}
    assert set(rows["orientation"].to_pylist()) == {None}
    assert opened.swap_pairs.snapshot().count() == 0
    pair = {"pair_id": "p__q", "source_image_id": "p", "target_image_id": "q", "truth": None}
    store_swap_pairs(opened, [pair])
    lance.dataset(opened.swap_pairs.uri).drop_columns(["use", "world"])
    opened = Lake.open(lake.uri)
    assert pinned_pairs(opened, "training", []) == []
    assert pinned_pairs(opened, "evaluation", ["truth", "world"]) == [
        {"pair_id": "p__q", "truth": None, "world": None}
    ]
    assert ingest(opened, photo_tree).unchanged == 12
    shutil.copytree(photo_tree / "p0", photo_tree / "p9")
    assert ingest(opened, photo_tree).added == 4


def test_a_column_that_cannot_be_made_up_is_refused(lake: Lake, photo_tree: Path) -> None:
    ingest(lake, photo_tree)
    lance.dataset(lake.faces.uri).drop_columns(["shard"])
    with pytest.raises(LakeError, match=r"no column shard.*Ingest the photographs into a new lake"):
        Lake.open(lake.uri)


def test_a_column_of_another_type_is_refused(lake: Lake) -> None:
    lance.dataset(lake.faces.uri).drop_columns(["width"])
    lance.dataset(lake.faces.uri).add_columns(pa.schema([pa.field("width", pa.string())]))
    with pytest.raises(LakeError, match=r"faces\.width .* is string, this Orchard writes int32"):
        Lake.open(lake.uri)
