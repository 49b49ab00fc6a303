"""Tell Dagster what the lake knows: partitions, and data versions of results made outside Dagster.

The lake is the only truth. After `orchard ingest` and `orchard run` the instance is brought in line, so that
the UI shows what is there; a deleted Dagster home loses history, never state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets.stage import ArtifactStage, RowStage, Stage, StageGraph
from pipeline.dagster_home import dagster_home, open_instance, storage_place
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.ingest import INGEST_CODE_VERSION
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE

if TYPE_CHECKING:  # importing Dagster costs a second that `orchard plan` should not pay
    from dagster import AssetKey, DagsterInstance

    from assets.checks.catalogue import DataChecks
    from assets.planner import Planner

DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
USER_PROVIDED = "dagster/data_version_is_user_provided"
INPUT_VERSION = "dagster/input_data_version"
INPUT_POINTER = "dagster/input_event_pointer"
"""Tags in which Dagster 1.13 keeps what a materialisation was made from; tests hold us to them."""


def sync_instance(lake: Lake, graph: StageGraph | None = None) -> bool:
    """Make partitions of the lake's shards, and report results that Dagster does not know yet.

    Without a graph only the photographs themselves are reported. Returns False when the Dagster home, or its
    database, belongs to another lake (nothing is changed there).
    """
    with open_instance(lake) as instance:
        if instance is None:
            return False
        from assets.dagster_assets import register_partitions

        register_partitions(instance, lake)
        report_versions(instance, lake, graph or StageGraph(()), checked=True)
    return True


def make_ready(lake: Lake, graph: StageGraph, gpu_slots: int) -> None:
    """Everything that webserver and daemon need of the instance: partitions, versions, the limit of the pool.

    Raises LakeError when the instance belongs to another lake.
    """
    from assets.dagster_assets import GPU_POOL

    if not sync_instance(lake, graph):
        raise LakeError(
            f"{storage_place(dagster_home())} belongs to another lake; give each its own, e.g. "
            f"DAGSTER_HOME={lake.working_root}/dagster orchard ui, and a database of its own where one is set"
        )
    with open_instance(lake) as instance:
        assert instance is not None  # sync_instance looked
        # a limit of its own holds from the first run on, whatever the pool's granularity is set to
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, gpu_slots)


def report_versions(
    instance: DagsterInstance, lake: Lake, graph: StageGraph, *, checked: bool = False
) -> int:
    """Report every fresh shard and artifact of which Dagster's newest event tells something else.

    `checked` runs the checks of each of them as well, and reports what they found.

    Returns the number of events written. A result that came out the same from changed inputs is reported
    too: Dagster would otherwise call it stale for inputs that it no longer depends on.
    """
    from assets.checks.catalogue import DataChecks
    from assets.dagster_assets import asset_partitions, upstream_assets
    from assets.planner import Planner

    planner = Planner(lake, graph)
    events = _Events(instance, DataChecks(lake, graph) if checked else None)
    events.report(FACES_STAGE, INGEST_CODE_VERSION, {}, _shard_results(planner, "faces", FACES_STAGE))
    for asset, stages in graph.assets().items():
        found: dict[str | None, Result] = {}
        for stage in stages:
            if isinstance(stage, RowStage):
                found |= _shard_results(planner, stage.table, stage.name)
            else:
                found |= _artifact_result(planner, stage)
        own = asset_partitions(graph, asset)
        upstream = {name: own == asset_partitions(graph, name) for name in upstream_assets(graph, stages[0])}
        events.report(asset, stages[0].code_version, upstream, found)
    return events.written


@dataclass(frozen=True)
class Result:
    """What the lake holds of one asset or partition."""

    version: str
    metadata: dict[str, int]


def _shard_results(planner: Planner, table_name: str, stage: str) -> dict[str | None, Result]:
    """Every shard without stale rows."""
    table = planner.table(table_name)
    rows = table.stages[stage]
    unfinished = table.shard_counts(rows.stale)
    counts = {
        "rows": table.shard_counts(np.ones(len(table), dtype=bool)),
        "ok": table.shard_counts(rows.ok),
        "quarantined": table.shard_counts(rows.quarantined),
    }
    return {
        shard: Result(digest, {name: found.get(shard, 0) for name, found in counts.items()})
        for shard, digest in sorted(table.shard_digests(stage).items())
        if shard not in unfinished
    }


def _artifact_result(planner: Planner, stage: Stage) -> dict[str | None, Result]:
    plan = planner.artifact(stage.name)
    if plan.current is None or plan.stale or plan.waiting:
        return {}
    assert isinstance(stage, ArtifactStage)  # only they have such plans
    return {planner.graph.partition_of(stage): Result(plan.current.digest.hex(), {})}


class _Events:
    """Dagster's newest materialisations, asset by asset from upstream to downstream.

    A runless event is judged by its tags as one of a run is: the versions of its inputs, and the newest event
    of each input that it could have seen (Dagster compares what came after that one with what came before).
    """

    def __init__(self, instance: DagsterInstance, checks: DataChecks | None) -> None:
        self.instance, self.checks = instance, checks
        self.versions: dict[str, dict[str | None, str]] = {}
        self.newest: dict[str, int | None] = {}
        self.written = 0

    def report(
        self,
        name: str,
        code_version: str,
        upstream: Mapping[str, bool],
        results: Mapping[str | None, Result],
    ) -> None:
        """Write what is missing for one asset; its upstream assets must have been reported before.

        `upstream` says of each whether it has the same partitions, and so counts partition by partition.
        """
        import dagster as dg

        from assets.dagster_checks import report_checks

        changed: list[str | None] = []
        key = dg.AssetKey(name)
        known = self._newest_events(key)
        versions = {partition: tags.get(DATA_VERSION, "") for partition, tags in known.items()}
        for partition, result in results.items():
            tags = {DATA_VERSION: result.version, CODE_VERSION: code_version}
            tags |= {
                f"{INPUT_VERSION}/{item}": self._input_version(item, partition if same else None)
                for item, same in upstream.items()
            }
            versions[partition] = result.version
            if tags.items() <= known.get(partition, {}).items():
                continue
            pointers = {f"{INPUT_POINTER}/{item}": str(self._pointer(item) or "NULL") for item in upstream}
            crash_point("before_event")
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key,
                    partition=partition,
                    tags={**tags, **pointers, USER_PROVIDED: "true"},
                    metadata=result.metadata,
                    description="found in the lake",
                )
            )
            crash_point("after_event")
            self.written += 1
            changed.append(partition)
        if self.checks is not None and changed:
            shards = [shard for shard in results if shard]
            report_checks(self.instance, self.checks, name, [shard for shard in changed if shard], shards)
        self.versions[name] = versions

    def _pointer(self, name: str) -> int | None:
        """Newest event of an asset that was reported before; asked for only when something is written."""
        import dagster as dg

        if name not in self.newest:
            newest = self.instance.fetch_materializations(dg.AssetKey(name), limit=1).records
            self.newest[name] = newest[0].storage_id if newest else None
        return self.newest[name]

    def _newest_events(self, key: AssetKey) -> dict[str | None, dict[str, str]]:
        """Tags of the newest materialisation of every partition (None: of the asset)."""
        import dagster as dg

        storage = self.instance.event_log_storage
        ids = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        if ids:
            wanted = dg.AssetRecordsFilter(key, storage_ids=list(ids.values()))
            records = self.instance.fetch_materializations(wanted, limit=len(ids)).records
        else:
            records = self.instance.fetch_materializations(key, limit=1).records
        return {
            found.partition: dict(found.tags or {})
            for record in records
            if (found := record.asset_materialization) is not None
        }

    def _input_version(self, name: str, partition: str | None) -> str:
        """The version of an input as Dagster's own runs record it: hashed where the input has partitions."""
        versions = self.versions[name]
        if None in versions:
            return versions[None]
        partitions = sorted(filter(None, versions)) if partition is None else [partition]
        known = [versions[key] for key in partitions if key in versions]
        return hashlib.sha256("".join(known).encode()).hexdigest() if known else "INITIAL"
