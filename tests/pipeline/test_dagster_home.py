"""A deleted Dagster home: history is gone, state is not, and the next command tells Dagster again."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from assets.dagster_assets import SHARDS
from assets.stage import StageGraph
from pipeline.commands.forget import empty_history
from pipeline.dagster_sync import open_instance, sync_instance
from pipeline.profiles import profile
from resources.lake.lake import Lake


def known(lake: Lake) -> tuple[set[str], dict[str, str]]:
    """Partitions of photographs, and the data version of every shard of `landmarks`, as Dagster has them."""
    with open_instance(lake) as instance:
        assert instance is not None
        name = SHARDS["faces"].name
        assert name is not None
        versions = {}
        events = instance.fetch_materializations(dg.AssetKey("landmarks"), limit=100).records
        for event in events:
            assert event.asset_materialization is not None
            tags = event.asset_materialization.tags or {}
            versions[str(event.partition_key)] = tags["dagster/data_version"]
        return set(instance.get_dynamic_partitions(name)), versions


def test_a_deleted_home_is_filled_again(smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    lake, graph = smoke_lake.lake, StageGraph((profile("smoke").graph()["landmarks"],))
    assert sync_instance(lake, graph)
    before = known(lake)
    assert before[0] == before[1].keys() == set(lake.faces.snapshot().shards())
    shutil.rmtree(home)
    assert sync_instance(lake, graph)
    assert known(lake) == before
    assert (home / "dagster.yaml").exists()


def test_an_emptied_history_holds_no_preview_any_more(
    smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    lake = smoke_lake.lake
    preview = "a preview of a photograph " * 400
    with open_instance(lake) as instance:
        assert instance is not None
        metadata = {"preview": dg.MetadataValue.md(preview)}
        instance.report_runless_asset_event(dg.AssetMaterialization("faces", metadata=metadata))

    def held() -> bool:
        return any(preview[:99].encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())

    assert held()
    assert empty_history(lake)
    assert not held()
    with open_instance(lake) as instance:
        assert instance is not None
        name = SHARDS["faces"].name
        assert name is not None
        assert set(instance.get_dynamic_partitions(name)) == set(lake.faces.snapshot().shards())
