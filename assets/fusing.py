"""Which row stages may share one pass over a shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from assets.batches import is_artifact
from assets.stage import RowStage, StageGraph
from resources.lake.schema import FACES_STAGE


def fused_groups(
    graph: StageGraph,
    stages: Sequence[RowStage],
    together: Callable[[RowStage, RowStage], bool] = lambda one, other: True,
) -> list[list[RowStage]]:
    """Stages in topological order, in groups that may share a pass.

    A group is of one table. A stage that needs an artifact or another table's rows is alone. An upstream
    that is not in the group must not depend on it either: it would change while the group runs. `together`
    says what else two stages of a group must have in common.
    """
    groups: list[list[RowStage]] = []
    depends: dict[str, set[str]] = {FACES_STAGE: set()}
    for stage in graph.stages:
        depends[stage.name] = {item.stage for item in stage.inputs}.union(
            *(depends[item.stage] for item in stage.inputs)
        )
    for stage in stages:
        last = groups[-1] if groups else []
        names = {item.name for item in last}
        fits = bool(last) and last[0].table == stage.table and together(last[0], stage)
        fits = fits and _is_plain(graph, stage) and _is_plain(graph, last[0])
        if fits and all(item.stage in names or not depends[item.stage] & names for item in stage.inputs):
            last.append(stage)
        else:
            groups.append([stage])
    return groups


def _is_plain(graph: StageGraph, stage: RowStage) -> bool:
    return all(item.via is None and not is_artifact(graph, item) for item in stage.inputs)
