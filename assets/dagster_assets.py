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
from assets.engine import ShardWork, make_engine
from assets.previews import stage_preview
from assets.runner import ShardResult
from assets.stage import ArtifactStage, RowStage, Stage, StageGraph
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.ingest import refresh_shard
from resources.lake.lake import Lake
from resources.lake.recipes import RECIPE_TABLES, base_name, of_recipe
from resources.lake.resource import LakeResource
from resources.lake.schema import FACES_STAGE
from resources.lake.state import ingest_account

GPU_POOL = "gpu"
GROUPS = {"faces": "annotation", "triplets": "training", "swaps": "swapping", "diffface_swaps": "swapping"}

SHARDS = {
    "faces": dg.DynamicPartitionsDefinition(name="shards"),
    "triplets": dg.DynamicPartitionsDefinition(name="triplet_shards"),
    "swaps": dg.DynamicPartitionsDefinition(name="swap_shards"),
    "diffface_swaps": dg.DynamicPartitionsDefinition(name="diffface_swap_shards"),
}
"""Partitions of every table: hundreds of comma-free keys, registered as shards come to be. The shards of all
recipes' pairs are partitions of the same assets."""


def build_assets(graph: StageGraph) -> list[dg.AssetsDefinition]:
    """Every stage of a profile as an asset, `faces` first; the recipes of a stage are its partitions."""
    assets = [_faces_asset()]
    for stages in graph.assets().values():
        stage = stages[0]
        if isinstance(stage, RowStage):
            assets.append(_row_asset(graph, stage))
        elif isinstance(stage, ArtifactStage):
            assets.append(_artifact_asset(graph, stage))
    return assets


def build_checks(graph: StageGraph) -> list[dg.AssetChecksDefinition]:
    """The checks of every stage but row accounting: one step per stage, of which any can be run alone."""
    names = [FACES_STAGE, *graph.assets()]
    return [stage_checks(graph, name, asset_partitions(graph, name)) for name in names]


def asset_partitions(graph: StageGraph, asset: str) -> dg.PartitionsDefinition | None:
    """Partitions of an asset: shards, recipes, or None for the one artifact that all recipes share."""
    if asset == FACES_STAGE:
        return SHARDS[FACES_STAGE]
    stage = graph.assets()[asset][0]
    if isinstance(stage, RowStage):
        return SHARDS[base_name(stage.table)]
    if isinstance(stage, ArtifactStage) and stage.by_recipe:
        return dg.StaticPartitionsDefinition(list(graph.recipes))
    return None


def _options(graph: StageGraph, asset: str, table: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"name": asset, "group_name": "training"}
    partitions = asset_partitions(graph, asset)
    if partitions is not None:
        options |= {"partitions_def": partitions, "backfill_policy": dg.BackfillPolicy.multi_run(1)}
    if table is not None:
        options |= {
            "check_specs": [check_spec(ACCOUNTING, asset, partitions)],
            "group_name": GROUPS[base_name(table)],
        }
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
        **_options(StageGraph(()), FACES_STAGE, FACES_STAGE),
        kinds={"lance"},
        code_version="1",
        description="Photographs on disk as rows. Materialising a shard reads changed source files again; "
        "new photographs come in with `orchard ingest` or the scheduled refresh.",
    )


def _row_asset(graph: StageGraph, stage: RowStage) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, lake: LakeResource):
        opened = _prepared(lake, graph)
        own = _stage_of(graph, stage.asset, context.partition_key)
        assert isinstance(own, RowStage)  # as all stages of this asset
        choice = lake.engine_choice()
        context.log.info(f"engine {choice.name}: {choice.reason}")
        work = ShardWork(
            opened, graph, [own], [context.partition_key], device=lake.device, report=context.log.info
        )
        (results,) = make_engine(choice).run(work)
        result = results[own.name]
        refuse_unknown_shard(result.rows, context.partition_key)
        preview = stage_preview(opened, graph, own.name, context.partition_key)
        yield from _reported(
            version=result.digest,
            metadata=row_metadata(result),
            preview=preview,
            checks=_accounted(opened, graph, own.name, context.partition_key, result.pending),
        )

    return _asset(
        body,
        **_options(graph, stage.asset, stage.table),
        deps=_dependencies(graph, stage),
        code_version=stage.code_version,
        description=stage.description,
        pool=GPU_POOL,
        kinds={"lance", *(["torch"] if stage.weights else [])},
    )


def _artifact_asset(graph: StageGraph, stage: ArtifactStage) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, lake: LakeResource):
        opened = _prepared(lake, graph)
        partition = context.partition_key if context.has_partition_key else None
        own = _stage_of(graph, stage.asset, partition)
        assert isinstance(own, ArtifactStage)  # as all stages of this asset
        result = run_artifact(opened, graph, own, device=lake.device, report=context.log.info)
        register_partitions(context.instance, opened)
        preview = own.preview(opened, result.artifact) if own.preview else None
        figures = artifact_metadata(result)
        table = own.table(opened, result.artifact) if own.table else None
        yield from _reported(
            version=result.artifact.digest.hex(),
            metadata=figures if table is None else {**figures, "table": dg.MetadataValue.md(table)},
            preview=preview,
        )

    return _asset(
        body,
        **_options(graph, stage.asset, None),
        deps=_dependencies(graph, stage),
        code_version=stage.code_version,
        description=stage.description,
        pool=GPU_POOL,
    )


def _prepared(lake: LakeResource, graph: StageGraph) -> Lake:
    """The lake with the columns of all stages: whoever launches first may find it just ingested."""
    opened = lake.open()
    graph.prepare(opened)
    return opened


def _stage_of(graph: StageGraph, asset: str, partition: str | None) -> Stage:
    """The stage behind a partition; LakeError where its recipe was started after this process began."""
    try:
        return graph.of_asset(asset, partition)
    except KeyError as error:
        raise LakeError(
            f"no stage of {asset} computes {partition}; reload the definitions if its recipe was just started"
        ) from error


def _dependencies(graph: StageGraph, stage: Stage) -> list[dg.AssetDep]:
    """Upstream assets; what is partitioned otherwise counts as a whole."""
    own = asset_partitions(graph, stage.asset)
    found = []
    for name in upstream_assets(graph, stage):
        other = asset_partitions(graph, name)
        whole = dg.AllPartitionMapping() if own and other and own != other else None
        found.append(dg.AssetDep(name, partition_mapping=whole))
    return found


def upstream_assets(graph: StageGraph, stage: Stage) -> list[str]:
    """Upstream assets that Dagster should know of, for all recipes those of the default one.

    Pair tables do not depend on photo shards in Dagster: 366 of them would exceed what it tracks (it never
    marks an asset stale through 100 or more upstream partitions), and the release stands in between.
    """
    own = stage.table if isinstance(stage, RowStage) else None
    names = []
    for item in stage.inputs:
        upstream = None if item.stage == FACES_STAGE else graph[item.stage]
        if upstream is None or isinstance(upstream, RowStage):
            table = FACES_STAGE if upstream is None else upstream.table
            if own is not None and table != own:
                continue
        names.append(base_name(item.stage))
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
        "share_in_model": round(result.model_seconds / result.seconds, 3) if result.computed else 0.0,
        "device_use": result.device_use,
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
        own = [table, *(of_recipe(table, recipe) for recipe in lake.recipes() if table in RECIPE_TABLES)]
        wanted = [shard for name in own for shard in lake.table(name).snapshot().shards()]
        known = set(instance.get_dynamic_partitions(name))
        missing = [key for key in wanted if key not in known]
        if missing:
            instance.add_dynamic_partitions(name, missing)
            new[table] = missing
        for key in sorted(known.difference(wanted)):
            instance.delete_dynamic_partition(name, key)
    return new
