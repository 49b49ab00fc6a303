"""A deleted Dagster home: history is gone, state is not, and the next command tells Dagster again."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from assets.dagster_assets import SHARDS
from pipeline.dagster_sync import open_instance, sync_instance
from pipeline.profiles import profile
from resources.lake.lake import Lake


def known(lake: Lake) -> tuple[set[str], dict[str, str]]:
    """Partitions of photographs, and the data version of every artifact, as Dagster has them."""
    with open_instance(lake) as instance:
        assert instance is not None
        name = SHARDS["faces"].name
        assert name is not None
        versions = {}
        for stage in ("release", "teacher", "student", "evaluation"):
            event = instance.get_latest_materialization_event(dg.AssetKey(stage))
            assert event is not None
            assert event.asset_materialization is not None
            versions[stage] = (event.asset_materialization.tags or {})["dagster/data_version"]
        return set(instance.get_dynamic_partitions(name)), versions


def test_a_deleted_home_is_filled_again(smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    lake, graph = smoke_lake.lake, profile("smoke").graph()
    assert sync_instance(lake, graph)
    before = known(lake)
    assert before[0] == set(lake.faces.snapshot().shards())
    shutil.rmtree(home)
    assert sync_instance(lake, graph)
    assert known(lake) == before
    assert (home / "dagster.yaml").exists()
