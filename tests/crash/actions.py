"""What is killed: one action for every kind of stage, done on a case's own copy of a lake.

A case is a folder that holds `lake/` and `dagster/`; photographs lie outside and are only read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_orchard

from assets import runner
from assets.artifacts import run_artifact
from assets.runner import run_shard
from assets.stage import DEFAULT_RECIPE, ArtifactStage, RowStage
from resources.lake import ingest as ingest_module
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

FRESH, CHANGED = "photos", "changed_photos"
"""The two folders of photographs beside the cases: one stays as written, one is changed half-way."""

DAGSTER_SHARD = "shard-00001"


@dataclass(frozen=True)
class Action:
    """One kind of stage: the lake it starts from (another kind's finished one), and what is run.

    `run` returns what was computed; the second time in a row that must be nothing. `short` names the points
    at which the short form of the matrix kills it, once each.
    """

    kind: str
    starts_from: str
    run: Callable[[Path, Path], dict[str, int]]
    in_matrix: bool = True
    short: tuple[str, ...] = ()


def small_commits() -> None:
    """Commit after every batch and append in small pieces, so that there are many instants to die at."""
    runner.COMMIT_SECONDS = 0.0
    ingest_module.BYTES_PER_APPEND = 700


def run(case: Path, *stages: str) -> dict[str, int]:
    """Run stages over all shards, upstream first."""
    lake, graph = Lake.open(case / "lake"), small_orchard.orchard()
    graph.prepare(lake)
    computed: dict[str, int] = {}
    for stage in graph.stages:
        if stage.name not in stages:
            continue
        if isinstance(stage, RowStage):
            shards = lake.table(stage.table).snapshot().shards()
            results = [run_shard(lake, graph, stage, shard, device="cpu", report=_quiet) for shard in shards]
            computed[stage.name] = sum(result.computed for result in results)
        elif isinstance(stage, ArtifactStage):
            computed[stage.name] = int(run_artifact(lake, graph, stage, device="cpu", report=_quiet).made)
    return computed


def _quiet(text: str) -> None:
    """Hundreds of runs have nothing to say."""


def _bring_in(case: Path, root: Path, prune: bool = False) -> dict[str, int]:
    lake = Lake.open(case / "lake", create=True)
    report = ingest(lake, root, shard_size=small_orchard.SHARD_SIZE, consent=Consent.SYNTHETIC, prune=prune)
    return {"added": report.added, "replaced": report.replaced, "pruned": report.pruned}


def _ingest(case: Path, photos: Path) -> dict[str, int]:
    return _bring_in(case, photos / FRESH)


def _ingest_before_change(case: Path, photos: Path) -> dict[str, int]:
    root = photos / CHANGED
    done = _bring_in(case, root)
    run(case, *ROWS, "release", "pseudo_triplets", "swaps")
    small_orchard.change_photos(root)
    return done


def _ingest_again(case: Path, photos: Path) -> dict[str, int]:
    return _bring_in(case, photos / CHANGED, prune=True)


def _pin(case: Path, photos: Path) -> dict[str, int]:
    small_orchard.pin_swap_pairs(Lake.open(case / "lake"))
    return run(case, "aesthetics", "identity_embedding", "masks")


def _pin_others(case: Path, photos: Path) -> dict[str, int]:
    done = small_orchard.pin_swap_pairs(Lake.open(case / "lake"), grey=60)
    return {"exchanged": done.added}


def _stages(*names: str) -> Callable[[Path, Path], dict[str, int]]:
    return lambda case, photos: run(case, *names)


def _dagster(stage: str, shard: str | None) -> Callable[[Path, Path], dict[str, int]]:
    def materialise(case: Path, photos: Path) -> dict[str, int]:
        import dagster as dg

        from assets.dagster_assets import build_assets, register_partitions
        from resources.lake.resource import LakeResource

        lake = Lake.open(case / "lake")
        graph = small_orchard.orchard()
        graph.prepare(lake)
        (case / "dagster").mkdir(exist_ok=True)
        with dg.DagsterInstance.local_temp(str(case / "dagster")) as instance:
            register_partitions(instance, lake)
            result = dg.materialize(
                build_assets(graph),
                selection=[stage],
                partition_key=shard,
                instance=instance,
                resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
                run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            )
            metadata: dict[str, Any] = dict(result.asset_materializations_for_node(stage)[0].metadata)
        counts = [metadata[name].value for name in ("computed", "made_now", "replaced") if name in metadata]
        return {stage: int(counts[0])}

    return materialise


def _tell_dagster(case: Path, photos: Path) -> dict[str, int]:
    import dagster as dg

    from assets.dagster_assets import register_partitions
    from pipeline.dagster_sync import report_versions

    lake, graph = Lake.open(case / "lake"), small_orchard.orchard()
    graph.prepare(lake)
    (case / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.local_temp(str(case / "dagster")) as instance:
        register_partitions(instance, lake)
        return {"events": report_versions(instance, lake, graph)}


ROWS = ("aesthetics", "identity_embedding", "masks", "latents")
WRITES = ("before_write", "after_data_file", "after_commit")
TRAINING = ("mid_training", "mid_checkpoint", "after_commit")
EVENTS = ("before_event", "after_event")

ACTIONS = (
    Action("ingest", "", _ingest, short=("mid_ingest",)),
    Action("annotated", "ingest", _pin, in_matrix=False),
    Action("list of swap pairs", "annotated", _pin_others, short=("after_data_file",)),
    Action("row stage on faces", "annotated", _stages("latents"), short=WRITES),
    Action("release", "row stage on faces", _stages("release"), short=("mid_release", "after_commit")),
    Action("results told to Dagster", "release", _tell_dagster, short=("after_event",)),
    Action("row stage on pairs", "release", _stages("pseudo_triplets"), short=WRITES),
    Action("prompt embeddings", "row stage on pairs", _stages("prompt_embeddings")),
    Action("teacher", "prompt embeddings", _stages("teacher"), short=TRAINING),
    Action("triplets release", "teacher", _stages("triplets_release")),
    Action("student", "triplets release", _stages("student")),
    Action("swapped", "student", _stages("swaps"), in_matrix=False),
    Action("evaluation", "swapped", _stages("evaluation"), short=("before_write",)),
    Action("before change", "", _ingest_before_change, in_matrix=False),
    Action("ingest of changes", "before change", _ingest_again, short=("mid_ingest",)),
    Action("row stages after changes", "ingest of changes", _stages(*ROWS)),
    Action("release after changes", "row stages after changes", _stages("release")),
    Action("pairs after changes", "release after changes", _stages("pseudo_triplets")),
    Action("known to Dagster", "ingest", _dagster("faces", DAGSTER_SHARD), in_matrix=False),
    Action("row stage in Dagster", "known to Dagster", _dagster("aesthetics", DAGSTER_SHARD), short=EVENTS),
    Action("faces in Dagster", "before change", _dagster("faces", DAGSTER_SHARD)),
    Action("artifact in Dagster", "teacher", _dagster("triplets_release", DEFAULT_RECIPE)),
)
"""Every kind, after the one it starts from."""
