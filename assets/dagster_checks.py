"""Dagster's view of a stage's checks: one step per stage, an outcome for every shard.

A run with a partition checks that shard. One without (*Execute all*, for which the pinned UI cannot choose a
partition) checks all shards of which something was computed, tells Dagster the outcome of each, and sums up.
"""

import warnings
from collections.abc import Collection, Iterator

import dagster as dg

from assets.checks.catalogue import ACCOUNTING, Check, CheckRun, DataChecks, checks_of, summed_up
from assets.stage import StageGraph
from resources.lake.errors import LakeError
from resources.lake.resource import LakeResource


def stage_checks(
    graph: StageGraph, name: str, partitions: dg.PartitionsDefinition | None
) -> dg.AssetChecksDefinition:
    """All checks of a stage but row accounting, which is part of the asset's own step; any subset may be run.

    `partitions` are those of the asset; None for an artifact.
    """
    declared = [check for check in checks_of(graph, name) if check != ACCOUNTING]

    def body(context: dg.AssetCheckExecutionContext, lake: LakeResource):
        opened = lake.open()
        graph.prepare(opened)
        checks = DataChecks(opened, graph)
        wanted = {key.name for key in context.selected_asset_check_keys}
        if partitions is None:
            runs = checks.run(name, None, names=wanted)
        elif context.has_partition_key:
            shard = context.partition_key
            refuse_unknown_shard(checks.rows(name, shard), shard)
            runs = checks.run(name, shard, names=wanted)
        else:
            runs = _all_shards(context.instance, checks, name, wanted)
        for run in runs:
            say = context.log.info if run.finding.passed else context.log.warning
            say("%s of %s: %s", run.check.name, run.shard or name, run.finding.message)
            if partitions is None or run.shard:
                yield check_result(run)
            else:
                # a result would be dated by the run's partition, which there is none of, and Dagster raises
                yield check_evaluation(run)

    specs = [check_spec(check, name, partitions) for check in declared]
    return dg.multi_asset_check(name=f"{name}_checks", specs=specs, can_subset=True)(body)


def _all_shards(
    instance: dg.DagsterInstance, checks: DataChecks, name: str, wanted: Collection[str]
) -> Iterator[CheckRun]:
    """One summed-up outcome per check; what every shard gave is reported as an event of that shard."""
    by_check: dict[str, list[CheckRun]] = {}
    for shard in checks.computed_shards(name):
        for run in checks.run(name, shard, names=wanted):
            instance.report_runless_asset_event(check_evaluation(run))
            by_check.setdefault(run.check.name, []).append(run)
    for check in checks_of(checks.graph, name):
        if check.name in wanted:
            yield CheckRun(name, None, check, summed_up(by_check.get(check.name, [])))


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
    """The outcome of a check that was not run by a step of its own, as an event of its shard."""
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
