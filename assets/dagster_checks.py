"""Dagster's view of a stage's checks: one step per stage, an outcome for every shard that a run made.

A run with a partition checks that shard, one of a backfill those of its range. One without (*Execute all*,
for which the pinned UI cannot choose a partition) checks all shards of which something was computed, and
sums up.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter  # its storage takes no other; not exported

from assets.checks.catalogue import ACCOUNTING, Check, CheckRun, DataChecks, checks_of, summed_up
from assets.stage import ArtifactStage, RowStage, StageGraph
from resources.lake.errors import LakeError
from resources.lake.resource import LakeResource
from resources.lake.schema import FACES_STAGE


def stage_checks(
    graph: StageGraph, name: str, partitions: dg.PartitionsDefinition | None
) -> dg.AssetChecksDefinition:
    """All checks of a stage but row accounting, which is part of the asset's own step; any subset may be run.

    `partitions` are those of the asset; None for an artifact.
    """
    declared = [check for check in _checks_of_asset(graph, name) if check != ACCOUNTING]

    def body(context: dg.AssetCheckExecutionContext, lake: LakeResource):
        opened = lake.open()
        graph.prepare(opened)
        checks = DataChecks(opened, graph)
        wanted = {key.name for key in context.selected_asset_check_keys}
        if partitions is None:
            runs = checks.run(name, None, names=wanted)
        elif context.has_partition_key:
            runs = _of_partition(checks, name, context.partition_key, wanted, refuse_unknown=True)
        elif context.has_partition_key_range:
            # a backfill names its one partition as a range
            runs = (run for key in context.partition_keys for run in _of_partition(checks, name, key, wanted))
        else:
            runs = _over(checks, name, _computed_partitions(checks, name), wanted, pending=None)
        for run in runs:
            say = context.log.info if run.finding.passed else context.log.warning
            say("%s of %s: %s", run.check.name, run.shard or name, run.finding.message)
            if partitions is None or context.has_partition_key:
                yield check_result(run)
            else:
                # a result would be dated by the run's partition, which there is none of, and Dagster raises
                yield check_evaluation(run)

    specs = [check_spec(check, name, partitions) for check in declared]
    return dg.multi_asset_check(name=f"{name}_checks", specs=specs, can_subset=True)(body)


def _stages_of_asset(graph: StageGraph, asset: str) -> list[str]:
    """Names of the stages behind an asset: one, or one of every recipe."""
    return [FACES_STAGE] if asset == FACES_STAGE else [stage.name for stage in graph.assets()[asset]]


def _checks_of_asset(graph: StageGraph, asset: str) -> tuple[Check, ...]:
    return checks_of(graph, _stages_of_asset(graph, asset)[0])


def _of_partition(
    checks: DataChecks,
    asset: str,
    partition: str,
    names: Collection[str] | None,
    pending: int | None = None,
    *,
    refuse_unknown: bool = False,
) -> Iterator[CheckRun]:
    """The checks of a shard, or of a recipe's artifact, as outcomes of that asset and partition."""
    stage, shard = FACES_STAGE, partition
    if asset != FACES_STAGE:
        found = checks.graph.of_asset(asset, partition)
        stage, shard = found.name, partition if isinstance(found, RowStage) else None
    if refuse_unknown and shard is not None:
        refuse_unknown_shard(checks.rows(stage, shard), shard)
    for run in checks.run(stage, shard, names=names, pending=pending):
        yield replace(run, stage=asset, shard=partition)


def _computed_partitions(checks: DataChecks, asset: str) -> list[str]:
    """Partitions of an asset in which something was computed, sorted."""
    done: set[str] = set()
    for name in _stages_of_asset(checks.graph, asset):
        stage = None if name == FACES_STAGE else checks.graph[name]
        if not isinstance(stage, ArtifactStage):
            done.update(checks.computed_shards(name))
        elif (partition := checks.graph.partition_of(stage)) and checks.lake.current_artifact(name):
            done.add(partition)
    return sorted(done)


def _over(
    checks: DataChecks,
    name: str,
    partitions: Sequence[str],
    names: Collection[str] | None,
    pending: int | None,
) -> Iterator[CheckRun]:
    """One outcome per check of an asset, summed up over partitions."""
    runs = [run for key in partitions for run in _of_partition(checks, name, key, names, pending)]
    for check in _checks_of_asset(checks.graph, name):
        if names is None or check.name in names:
            yield CheckRun(name, None, check, summed_up([run for run in runs if run.check == check]))


def report_checks(
    instance: dg.DagsterInstance,
    checks: DataChecks,
    name: str,
    changed: Collection[str],
    fresh: Collection[str],
) -> None:
    """Tell Dagster what the checks find in partitions that were computed outside it.

    `changed` and `fresh` are empty for an artifact that all recipes share.

    Dagster 1.13 takes one such outcome per partition and never a second, so it is told for the asset as a
    whole: over the `changed` ones and those that failed when they were last told, as far as they are `fresh`.
    """
    if not fresh:
        runs = checks.run(name, None)
    else:
        shards = sorted((set(changed) | _failed_before(instance, checks, name)) & set(fresh))
        runs = _over(checks, name, shards, None, pending=0)
    for run in runs:
        instance.report_runless_asset_event(check_evaluation(run))


def _failed_before(instance: dg.DagsterInstance, checks: DataChecks, name: str) -> set[str]:
    """Shards that failed a check according to its newest outcome for the asset as a whole."""
    keys = [dg.AssetCheckKey(dg.AssetKey(name), check.name) for check in _checks_of_asset(checks.graph, name)]
    whole = PartitionKeyFilter(key=None)
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys, partition_filter=whole)
    failed: set[str] = set()
    for record in newest.values():
        shards = record.evaluation.metadata.get("failed_shards") if record.evaluation else None
        if shards is not None and isinstance(shards.value, list):
            failed.update(map(str, shards.value))
    return failed


def check_spec(check: Check, stage: str, partitions: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
    """A check as Dagster knows it, with the partitions of its asset: every shard keeps its own outcome."""
    with warnings.catch_warnings():
        # partitions of checks are new in the pinned version; the tests hold us to what they do
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            check.name,
            asset=stage,
            description=check.description,
            blocking=check.blocking,
            partitions_def=partitions,
        )


def check_result(run: CheckRun) -> dg.AssetCheckResult:
    """The outcome of a check as its step yields it."""
    return dg.AssetCheckResult(
        check_name=run.check.name,
        passed=run.finding.passed,
        severity=dg.AssetCheckSeverity(run.finding.severity.value),
        description=run.finding.message,
        metadata=dict(run.finding.metadata),
    )


def check_evaluation(run: CheckRun) -> dg.AssetCheckEvaluation:
    """The outcome of a check as an event that needs no run."""
    result = check_result(run)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(run.stage),
        check_name=run.check.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=run.check.blocking,
        partition=run.shard,
    )


def refuse_unknown_shard(rows: int, shard: str) -> None:
    """The UI lets people add partitions by hand; only the lake makes shards."""
    if rows == 0:
        raise LakeError(
            f"the lake has no shard {shard}; shards come from `orchard ingest` and from releases, and the "
            "sensor `lake_partitions` registers them"
        )
