"""The stage runner that all row stages share: read the stale rows of a shard, compute, commit.

Work is committed at least every `COMMIT_SECONDS`, values and state in one commit per fragment. A kill at
any instant leaves either the old rows or the new ones; a rerun computes only what is still stale.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from assets.batches import BatchLimits, StageFault
from assets.commits import commit_rows
from assets.plan_rows import TablePlan
from assets.planner import Planner, Retry
from assets.shard_pass import ShardPass
from assets.stage import ArtifactStage, RowModel, RowStage, StageContext, StageGraph
from resources.compute.device import choose_device
from resources.compute.local import close, once_per_process
from resources.compute.usage import device_use
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.schema import FACES_STAGE

COMMIT_SECONDS = 60.0
"""Work done since the last commit never exceeds this by more than one batch."""


@dataclass
class ShardResult:
    """What one run of one stage over one shard did.

    `seconds` is the time it took wherever it ran, `model_seconds` what of it the model took; `device_use`
    says what was used of the device.
    """

    stage: str
    shard: str
    rows: int = 0
    computed: int = 0
    ok: int = 0
    quarantined: int = 0
    pending: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    seconds: float = 0.0
    model_seconds: float = 0.0
    device_use: str = ""

    def accounts(self) -> bool:
        """Whether every row is in exactly one of ok, quarantined, pending."""
        return self.ok + self.quarantined + self.pending == self.rows


def run_shard(
    lake: Lake,
    graph: StageGraph,
    stage: RowStage,
    shard: str,
    *,
    device: str = "auto",
    force: bool = False,
    retry: Retry | None = None,
    report: Callable[[str], None] = print,
    on_rows: Callable[[int], None] = lambda count: None,
    earlier: Planner | None = None,
) -> ShardResult:
    """Compute the stale rows of one shard of one stage: `run_shard_stages` of that stage alone."""
    results = run_shard_stages(
        lake,
        graph,
        [stage],
        shard,
        device=device,
        force=force,
        retry=retry,
        report=report,
        on_rows=lambda name, count: on_rows(count),
        earlier=earlier,
    )
    return results[stage.name]


@works_on_lake
def run_shard_stages(
    lake: Lake,
    graph: StageGraph,
    stages: Sequence[RowStage],
    shard: str,
    *,
    device: str = "auto",
    force: bool = False,
    retry: Retry | None = None,
    report: Callable[[str], None] = print,
    on_rows: Callable[[str, int], None] = lambda stage, count: None,
    earlier: Planner | None = None,
    limits: BatchLimits | None = None,
) -> dict[str, ShardResult]:
    """Compute the stale rows of one shard in some stages together; nothing stale means nothing computed.

    `stages` are one of the groups of `fused_groups`, upstream first: they share the decoded photographs and
    hand each other their results. `force` computes every row once, `retry` the named quarantined rows besides
    the stale ones. `report` receives sentences for people, `on_rows` a stage and the number of rows it just
    computed. What an `earlier` planner read of tables that have not changed since is not read again, and the
    batch sizes that an earlier shard had to lower are in `limits`.

    Raises StageFault when the code, not a row, is at fault, and LakeError when the lake is.
    """
    results = {stage.name: ShardResult(stage.name, shard) for stage in stages}
    limits = limits or BatchLimits(report)
    wished: dict[str, set[int]] | None = None
    while True:
        planner = earlier = Planner(lake, graph, earlier=earlier)
        if wished is None:
            table = planner.table(stages[0].table, shard)
            wished = {stage.name: wished_rows(table, stage, force, retry) for stage in stages}
        work = ShardPass(
            planner,
            stages,
            shard,
            wished,
            model_of=lambda stage: load_model(lake, graph, stage, device, report),
            on_rows=on_rows,
            limits=limits,
        )
        try:
            work.run(COMMIT_SECONDS)
        except StageFault:
            # the other stages are not at fault: what they computed stays
            _commit_all(planner, [stage for stage in stages if stage.name != work.running], shard, work)
            raise
        _commit_all(planner, stages, shard, work)
        for stage in stages:
            done = work.done[stage.name]
            results[stage.name].computed += len(done)
            results[stage.name].seconds += work.seconds[stage.name]
            results[stage.name].model_seconds += work.model_seconds[stage.name]
            wished[stage.name] -= done.keys()
        if not any(work.done.values()):
            break
    for stage in stages:
        results[stage.name].device_use = device_use().told()
        account(planner, stage, shard, results[stage.name], report)
    return results


def wished_rows(table: TablePlan, stage: RowStage, force: bool, retry: Retry | None) -> set[int]:
    """Ids of the rows that are to be computed once though they are fresh."""
    if force:
        return set(table.row_ids.tolist())
    if retry is None:
        return set()
    rows = table.stages[stage.name]
    return set(table.row_ids[retry.rows(rows.quarantined, rows.reason)].tolist())


def _commit_all(planner: Planner, stages: Sequence[RowStage], shard: str, work: ShardPass) -> None:
    """Write the results of every stage, upstream first: a kill between two leaves the later one stale."""
    for stage in stages:
        started = time.monotonic()
        if work.done[stage.name]:
            commit_rows(planner, stage, shard, work.done[stage.name])
        work.seconds[stage.name] += time.monotonic() - started


def model_key(lake: Lake, graph: StageGraph, stage: RowStage, device: str) -> str:
    """What a loaded model is: its stage's code, config and weights, its checkpoints, its device, its lake."""
    checkpoints = [
        lake.current_artifact(item.stage)
        for item in stage.inputs
        if item.stage != FACES_STAGE and isinstance(graph[item.stage], ArtifactStage)
    ]
    digests = [artifact.digest.hex() if artifact else "none" for artifact in checkpoints]
    return ":".join((stage.name, stage.prefix.hex(), device, lake.uri, *digests))


def load_model(
    lake: Lake, graph: StageGraph, stage: RowStage, device: str, report: Callable[[str], None]
) -> RowModel:
    """The stage's model, loaded once per process for each combination of code, config, weights, checkpoints.

    A model of an earlier combination is closed first: two large models would not fit beside each other.
    """
    key = model_key(lake, graph, stage, device)
    earlier = _loaded.get(stage.name)
    if earlier is not None and earlier != key:
        close(earlier)

    def build() -> RowModel:
        choice = choose_device(device)
        if stage.weights:
            report(f"{stage.name}: {choice.reason}")
        return stage.load(StageContext(lake, stage.resolve_weights(), choice.device, report))

    model = once_per_process(key, build)
    _loaded[stage.name] = key
    return model


_loaded: dict[str, str] = {}
"""Key of the model that is loaded for each stage in this process."""


def account(
    planner: Planner, stage: RowStage, shard: str, result: ShardResult, report: Callable[[str], None]
) -> None:
    """Count the rows of a shard by what became of them, and say when some wait for an upstream stage."""
    table = planner.table(stage.table, shard)
    rows = table.stages[stage.name]
    quarantined = rows.quarantined & ~rows.stale
    result.rows = len(table.keys)
    result.ok = int(rows.ok.sum())
    result.quarantined = int(quarantined.sum())
    result.pending = int(rows.stale.sum())
    result.reasons = Counter(rows.reason.filter(pa.array(quarantined)).to_pylist())
    result.digest = table.shard_digests(stage.name).get(shard, "")
    if result.pending:
        report(f"{stage.name} {shard}: {result.pending} rows wait for an upstream stage; run that first")
