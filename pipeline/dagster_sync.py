"""Tell Dagster what the lake knows: partitions, and data versions of results made outside Dagster.

The lake is the only truth. After `orchard ingest` and `orchard run` the instance is brought in line, so that
the UI shows what is there; a deleted Dagster home loses history, never state.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from assets.stage import RowStage, StageGraph
from pipeline.options import default_home, project_root
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE
from resources.lake.state import ingest_account

if TYPE_CHECKING:  # importing Dagster costs a second that `orchard plan` should not pay
    from dagster import DagsterInstance

CONFIG_NAME = "dagster.yaml"
LAKE_FILE = "orchard_lake"


def dagster_home() -> Path:
    """DAGSTER_HOME, or the project's own `.dagster`, made ready with the project's dagster.yaml."""
    home = Path(os.environ.get("DAGSTER_HOME") or default_home()).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    config = home / CONFIG_NAME
    source = project_root() / CONFIG_NAME
    if not config.exists() and source.exists():
        shutil.copyfile(source, config)
    return home


@contextlib.contextmanager
def open_instance(lake: Lake) -> Iterator[DagsterInstance | None]:
    """The Dagster instance of this lake, or None when the home belongs to another lake.

    Partition keys name shards of one lake; an instance is bound to the first lake that uses it.
    """
    import dagster as dg

    home = dagster_home()
    bound = home / LAKE_FILE
    if not bound.exists():
        bound.write_text(lake.uri, encoding="utf-8")
    if bound.read_text(encoding="utf-8") != lake.uri:
        yield None
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def sync_instance(lake: Lake, graph: StageGraph | None = None) -> bool:
    """Register the lake's shards, and report results whose data version Dagster does not know yet.

    Returns False when the Dagster home belongs to another lake (nothing is changed there).
    """
    with open_instance(lake) as instance:
        if instance is None:
            return False
        from assets.dagster_assets import register_partitions

        register_partitions(instance, lake)
        if graph is not None:
            report_versions(instance, lake, graph)
    return True


def report_versions(instance: DagsterInstance, lake: Lake, graph: StageGraph) -> None:
    """Report every fresh shard and artifact whose data version Dagster does not know yet."""
    from assets.planner import Planner

    planner = Planner(lake, graph)
    for shard in planner.snapshot("faces").shards():
        _report(instance, FACES_STAGE, shard, ingest_account(lake, shard).digest, "1")
    for stage in graph.stages:
        if isinstance(stage, RowStage):
            table = planner.table(stage.table)
            rows = table.stages[stage.name]
            unfinished = set(table.shards[rows.stale].tolist())
            for shard, digest in sorted(table.shard_digests(stage.name).items()):
                if shard not in unfinished:
                    _report(instance, stage.name, shard, digest, stage.code_version)
        else:
            plan = planner.artifact(stage.name)
            if plan.current is not None and not plan.stale and not plan.waiting:
                _report(instance, stage.name, None, plan.current.digest.hex(), stage.code_version)


def _report(instance: DagsterInstance, name: str, shard: str | None, version: str, code_version: str) -> None:
    """One materialisation event, unless the newest one already has this data version."""
    import dagster as dg

    key = dg.AssetKey(name)
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[shard] if shard else None), limit=1
    ).records
    if records:
        known = records[0].asset_materialization
        if known is not None and (known.tags or {}).get("dagster/data_version") == version:
            return
    tags = {
        "dagster/data_version": version,
        "dagster/data_version_is_user_provided": "true",
        "dagster/code_version": code_version,
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(key, partition=shard, tags=tags, description="computed by orchard run")
    )
