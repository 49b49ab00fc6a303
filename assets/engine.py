"""Where row stages are computed: in this process, or by processes of a cluster. One pass serves both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from assets.batches import BatchLimits
from assets.fusing import fused_groups
from assets.planner import Planner, Retry
from assets.runner import ShardResult, run_shard_stages
from assets.stage import RowStage, StageGraph
from resources.compute.engine_choice import EngineChoice
from resources.lake.lake import Lake


@dataclass(frozen=True)
class ShardWork:
    """What an engine is to compute: the stale rows of some stages in some shards.

    `stages` are one of the engine's own `groups`. The rest as in `run_shard_stages`.
    """

    lake: Lake
    graph: StageGraph
    stages: Sequence[RowStage]
    shards: Sequence[str]
    device: str = "auto"
    force: bool = False
    retry: Retry | None = None
    report: Callable[[str], None] = print
    on_rows: Callable[[str, int], None] = lambda stage, count: None
    earlier: Planner | None = None


class Engine(Protocol):
    """Computes row stages. Several groups may be computed with one engine, one after another."""

    def groups(self, graph: StageGraph, stages: Sequence[RowStage]) -> list[list[RowStage]]:
        """Stages in topological order, in groups that this engine passes over a shard together."""
        ...

    def run(self, work: ShardWork) -> Iterator[dict[str, ShardResult]]:
        """Compute; results come shard by shard, by stage, in the order in which shards are done.

        Raises StageFault when the code, not a row, is at fault, and LakeError when the lake is.
        """
        ...


@dataclass
class LocalEngine:
    """In this process, one shard after another; batch sizes that had to be lowered stay so."""

    lowered: dict[str, int] = field(default_factory=dict)

    def groups(self, graph: StageGraph, stages: Sequence[RowStage]) -> list[list[RowStage]]:
        """As many stages together as can share the decoded photographs."""
        return fused_groups(graph, stages)

    def run(self, work: ShardWork) -> Iterator[dict[str, ShardResult]]:
        """`run_shard_stages` of every shard."""
        limits = BatchLimits(work.report, self.lowered)
        for shard in work.shards:
            yield run_shard_stages(
                work.lake,
                work.graph,
                work.stages,
                shard,
                device=work.device,
                force=work.force,
                retry=work.retry,
                report=work.report,
                on_rows=work.on_rows,
                earlier=work.earlier,
                limits=limits,
            )


def make_engine(choice: EngineChoice) -> Engine:
    """The engine of a choice. A cluster is joined only when there is something to compute."""
    if choice.name == "local":
        return LocalEngine()
    # here, so that runs without Ray do without the file
    from assets.engine_ray import RayEngine

    return RayEngine(choice)
