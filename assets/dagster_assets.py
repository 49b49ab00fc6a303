"""Dagster's view of a stage: one asset per stage, its data version, metadata, preview and checks.

An asset's body is the shared runner behind a guard: when nothing is stale in the lake, nothing is computed
and the old data version is emitted again, however the run was launched. Row accounting is a part of that
body; the other checks are a step of their own behind it, so that people can run them again alone.
"""

import base64
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import dagster as dg

from assets.artifacts import ArtifactResult, run_artifact
from assets.checks.catalogue import ACCOUNTING, ROWS_ACCOUNTED, DataChecks
from assets.dagster_checks import check_result, check_spec, refuse_unknown_shard, stage_checks
from assets.previews import stage_preview
from assets.runner import ShardResult, run_shard
from assets.stage import ArtifactStage, RowStage, Stage, StageGraph
from resources.lake.failpoints import crash_point
from resources.lake.ingest import refresh_shard
from resources.lake.lake import Lake
from resources.lake.resource import LakeResource
from resources.lake.schema import FACES_STAGE
from resources.lake.state import ingest_account

GPU_POOL = "gpu"
GROUPS = {"faces": "annotation", "triplets": "training", "swaps": "swapping"}

SHARDS = {
    "faces": dg.DynamicPartitionsDefinition(name="shards"),
    "triplets": dg.DynamicPartitionsDefinition(name="triplet_shards"),
    "swaps": dg.DynamicPartitionsDefinition(name="swap_shards"),
}
"""Partitions of every table: hundreds of comma-free keys, registered as shards come to be."""


def build_assets(graph: StageGraph) -> list[dg.AssetsDefinition]:
    """Every stage of a profile as an asset, `faces` first."""
    assets = [_faces_asset()]
    for stage in graph.stages:
        if isinstance(stage, RowStage):
            assets.append(_row_asset(graph, stage))
        elif isinstance(stage, ArtifactStage):
            assets.append(_artifact_asset(graph, stage))
    return assets


def build_checks(graph: StageGraph) -> list[dg.AssetChecksDefinition]:
    """The checks of every stage but row accounting: one step per stage, of which any can be run alone."""
    found = [stage_checks(graph, FACES_STAGE, SHARDS["faces"])]
    for stage in graph.stages:
        partitions = SHARDS[stage.table] if isinstance(stage, RowStage) else None
        found.append(stage_checks(graph, stage.name, partitions))
    return found


def _options(stage_name: str, table: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"name": stage_name}
    if table is not None:
        options |= {
            "check_specs": [check_spec(ACCOUNTING, stage_name, SHARDS[table])],
            "partitions_def": SHARDS[table],
            "backfill_policy": dg.BackfillPolicy.multi_run(1),
            "group_name": GROUPS[table],
        }
    else:
        options["group_name"] = "training"
    return options


def _asset(body: Callable[..., Any], **options: Any) -> dg.AssetsDefinition:
    """`dg.asset` as a function: its overloads do not see through computed options."""
    with warnings.catch_warnings():
        # backfill policies are beta in the pinned version; said once per asset, it floods every command
        warnings.simplefilter("ignore", dg.BetaWarning)
        return cast(dg.AssetsDefinition, dg.asset(**options)(body))


def _faces_asset() -> dg.AssetsDefinition:
    def faces(context: dg.AssetExecutionContext, lake: LakeResource):
        opened = lake.open()
        report = refresh_shard(opened, context.partition_key)
        for image_id in report.removed:
            context.log.warning("the source file of %s is gone; its row is kept", image_id)
        result = ingest_account(opened, context.partition_key)
        refuse_unknown_shard(result.rows, context.partition_key)
        yield from _reported(
            version=result.digest,
            metadata={
                "rows": result.rows,
                "ok": result.ok,
                "quarantined": result.quarantined,
                "replaced": report.replaced,
                "source_files_gone": len(report.removed),
                "reasons": dict(result.reasons),
            },
            preview=stage_preview(opened, None, FACES_STAGE, context.partition_key),
            checks=_accounted(opened, StageGraph(()), FACES_STAGE, context.partition_key, 0),
        )

    return _asset(
        faces,
        **_options(FACES_STAGE, "faces"),
        kinds={"lance"},
        code_version="1",
        description="Photographs on disk as rows. Materialising a shard reads changed source files again; "
        "new photographs come in with `orchard ingest` or the scheduled refresh.",
    )


def _row_asset(graph: StageGraph, stage: RowStage) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, lake: LakeResource):
        opened = _prepared(lake, graph)
        result = run_shard(
            opened,
            graph,
            stage,
            context.partition_key,
            device=lake.device,
            report=context.log.info,
        )
        refuse_unknown_shard(result.rows, context.partition_key)
        preview = stage_preview(opened, graph, stage.name, context.partition_key)
        yield from _reported(
            version=result.digest,
            metadata=row_metadata(result),
            preview=preview,
            checks=_accounted(opened, graph, stage.name, context.partition_key, result.pending),
        )

    return _asset(
        body,
        **_options(stage.name, stage.table),
        deps=upstream_assets(graph, stage),
        code_version=stage.code_version,
        description=stage.description,
        pool=GPU_POOL,
        kinds={"lance", *(["torch"] if stage.weights else [])},
    )


def _artifact_asset(graph: StageGraph, stage: ArtifactStage) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, lake: LakeResource):
        opened = _prepared(lake, graph)
        result = run_artifact(opened, graph, stage, device=lake.device, report=context.log.info)
        register_partitions(context.instance, opened)
        preview = stage.preview(opened, result.artifact) if stage.preview else None
        yield from _reported(
            version=result.artifact.digest.hex(),
            metadata=artifact_metadata(result),
            preview=preview,
        )

    return _asset(
        body,
        **_options(stage.name, None),
        deps=upstream_assets(graph, stage),
        code_version=stage.code_version,
        description=stage.description,
        pool=GPU_POOL,
    )


def _prepared(lake: LakeResource, graph: StageGraph) -> Lake:
    """The lake with the columns of all stages: whoever launches first may find it just ingested."""
    opened = lake.open()
    graph.prepare(opened)
    return opened


def upstream_assets(graph: StageGraph, stage: Stage) -> list[str]:
    """Upstream assets that Dagster should know of.

    Pair tables do not depend on photo shards in Dagster: 366 of them would exceed what it tracks (it never
    marks an asset stale through 100 or more upstream partitions), and the release stands in between.
    """
    own = stage.table if isinstance(stage, RowStage) else None
    names = []
    for item in stage.inputs:
        if item.stage == FACES_STAGE or isinstance(graph[item.stage], RowStage):
            upstream_table = "faces" if item.stage == FACES_STAGE else graph[item.stage].table  # type: ignore[attr-defined] -- checked above
            if own is not None and upstream_table != own:
                continue
        names.append(item.stage)
    return list(dict.fromkeys(names))


def _accounted(
    lake: Lake, graph: StageGraph, stage: str, shard: str, pending: int
) -> list[dg.AssetCheckResult]:
    runs = DataChecks(lake, graph).run(stage, shard, names=[ROWS_ACCOUNTED], pending=pending)
    return [check_result(run) for run in runs]


def _reported(
    version: str,
    metadata: Mapping[str, Any],
    preview: bytes | None,
    checks: Sequence[dg.AssetCheckResult] = (),
) -> Iterator[dg.MaterializeResult]:
    """The result as an event; Dagster comes back for more when it has stored it."""
    crash_point("before_event")
    yield _materialisation(version, metadata, preview, checks)
    crash_point("after_event")


def _materialisation(
    version: str,
    metadata: Mapping[str, Any],
    preview: bytes | None,
    checks: Sequence[dg.AssetCheckResult],
) -> dg.MaterializeResult:
    shown: dict[str, Any] = dict(metadata)
    if preview is not None:
        picture = base64.b64encode(preview).decode()
        shown["preview"] = dg.MetadataValue.md(f"![preview](data:image/png;base64,{picture})")
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=shown, check_results=checks)


def row_metadata(result: ShardResult) -> dict[str, Any]:
    """What a person wants to see of one shard."""
    return {
        "rows": result.rows,
        "ok": result.ok,
        "quarantined": result.quarantined,
        "pending": result.pending,
        "computed": result.computed,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.computed / result.seconds, 2) if result.computed else 0.0,
        "reasons": dict(result.reasons),
    }


def artifact_metadata(result: ArtifactResult) -> dict[str, Any]:
    """What a person wants to see of an artifact: whether it was made now, and its own figures."""
    shown = {
        name: value
        for name, value in result.artifact.metadata.items()
        if isinstance(value, str | int | float)
    }
    return {"made_now": result.made, "seconds": round(result.seconds, 3), **shown}


def register_partitions(instance: dg.DagsterInstance, lake: Lake) -> dict[str, list[str]]:
    """Make the partitions the lake's shards; returns what was new, by table.

    Partitions of shards that are gone (all rows pruned, fewer pairs in a release) are dropped.
    """
    new: dict[str, list[str]] = {}
    for table, partitions in SHARDS.items():
        name = partitions.name
        assert name is not None  # all of ours are named
        wanted = lake.table(table).snapshot().shards()
        known = set(instance.get_dynamic_partitions(name))
        missing = [key for key in wanted if key not in known]
        if missing:
            instance.add_dynamic_partitions(name, missing)
            new[table] = missing
        for key in sorted(known.difference(wanted)):
            instance.delete_dynamic_partition(name, key)
    return new
