"""A deleted Dagster home: history is gone, state is not, and the next command tells Dagster again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
import yaml
from typer.testing import CliRunner

from assets.dagster_assets import GPU_POOL, SHARDS
from assets.stage import StageGraph
from pipeline.cli import app
from pipeline.commands.forget import empty_history
from pipeline.dagster_home import dagster_home, open_instance, storage_place
from pipeline.dagster_storage import event_log
from pipeline.dagster_sync import sync_instance
from pipeline.profiles import profile
from resources.lake.errors import LakeError
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


PREVIEW = "a preview of a photograph " * 400


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_an_emptied_history_holds_no_preview_any_more(
    storage: str, smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    if storage == "postgres":
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", request.getfixturevalue("make_database")("emptied"))
    lake = smoke_lake.lake
    with open_instance(lake) as instance:
        assert instance is not None
        metadata = {"preview": dg.MetadataValue.md(PREVIEW)}
        instance.report_runless_asset_event(dg.AssetMaterialization("faces", metadata=metadata))

    def held() -> bool:
        if storage == "sqlite":
            return any(
                PREVIEW[:99].encode() in path.read_bytes() for path in home.rglob("*") if path.is_file()
            )
        with open_instance(lake) as instance:
            assert instance is not None
            with event_log(instance).index_connection() as connection:
                found = connection.execute(sqlalchemy.text("SELECT event FROM event_logs")).scalars()
                return any(PREVIEW[:99] in event for event in found)

    assert held()
    assert empty_history(lake)
    assert not held()
    with open_instance(lake) as instance:
        assert instance is not None
        name = SHARDS["faces"].name
        assert name is not None
        assert set(instance.get_dynamic_partitions(name)) == set(lake.faces.snapshot().shards())


def test_prepare_makes_ready_what_webserver_and_daemon_need(
    smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    words = [
        "dagster",
        "prepare",
        "--lake",
        smoke_lake.lake.uri,
        "--profile",
        "smoke",
        "--gpu-slots",
        "3",
        "--json",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["home"] == str(tmp_path / "home")
    assert told["storage"].startswith("SQLite in ")
    with open_instance(smoke_lake.lake) as instance:
        assert instance is not None
        assert instance.event_log_storage.get_concurrency_info(GPU_POOL).slot_count == 3
        assert instance.fetch_materializations(dg.AssetKey("student"), limit=1).records
        [name] = {partitions.name for table, partitions in SHARDS.items() if table == "faces"}
        assert name is not None
        assert set(instance.get_dynamic_partitions(name)) == set(smoke_lake.lake.faces.snapshot().shards())


ADDRESS = "postgresql+psycopg2://orchard:hush@nowhere.invalid/dagster"


def settings_of(home: Path) -> str:
    return (home / "dagster.yaml").read_text(encoding="utf-8")


def test_a_new_home_uses_the_database_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", ADDRESS)
    home = dagster_home()
    settings = yaml.safe_load(settings_of(home))
    assert settings["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert settings["concurrency"]["pools"] == {"granularity": "op", "default_limit": 1}
    assert "hush" not in settings_of(home)
    assert storage_place(home) == "PostgreSQL, dagster at nowhere.invalid (DAGSTER_POSTGRES_URL)"
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    with pytest.raises(LakeError, match="set DAGSTER_POSTGRES_URL to its address"):
        dagster_home()


def test_a_home_of_files_is_never_left_behind_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert storage_place(dagster_home()).startswith(f"SQLite in {tmp_path / 'home'}")
    assert "storage" not in yaml.safe_load(settings_of(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", ADDRESS)
    with pytest.raises(
        LakeError, match="does not name it, so Dagster would not use that database"
    ) as refused:
        dagster_home()
    added = str(refused.value).partition("add this to the file:\n")[2]
    (tmp_path / "home" / "dagster.yaml").write_text(settings_of(tmp_path / "home") + "\n" + added + "\n")
    assert dagster_home() == tmp_path / "home"
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://orchard:hush@nowhere.invalid/dagster")
    with pytest.raises(LakeError, match=r"must begin with postgresql\+psycopg2://"):
        dagster_home()
