"""A lake of evenly grey photographs, a stage that measures them, and what tests ask of both and of actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from assets.engine import Engine
from assets.engine_ray import lake_namespace
from assets.planner import Planner
from assets.stage import Input, NoConfig, RowStage, StageGraph
from pipeline.execution import Progress, run_stages
from resources.compute import ray_actors
from resources.compute.ray_cluster import OwnCluster
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.schema import Column

PHOTOS, SHARD_SIZE = 12, 4


@dataclasses.dataclass(frozen=True)
class TwoNodes:
    """The cluster, and the second node's main process."""

    own: OwnCluster
    raylet: int


class Told(Progress):
    """What a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def make_lake(folder: Path) -> Lake:
    """Three shards of four evenly grey photographs, brightness 20, 40, ... 240."""
    for index in range(PHOTOS):
        path = folder / "photos" / f"p{index // 4}" / f"{index % 4:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * (index + 1),) * 3).save(path)
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "photos", shard_size=SHARD_SIZE, consent=Consent.SYNTHETIC)
    return lake


def level_stage(
    compute: Callable[[Sequence[Any]], None] = lambda rows: None, *, with_process: bool = True, **changes: Any
) -> RowStage:
    """Mean brightness, and maybe the process that computed it; `compute` sees every batch before."""
    columns = (Column("level", pa.float32(), quantum=0.01), Column("process", pa.int32()))[: 1 + with_process]

    def load(context):
        import os

        def model(rows):
            compute(rows)
            found = [{"level": float(row["image"].mean()), "process": os.getpid()} for row in rows]
            return [{column.name: row[column.name] for column in columns} for row in found]

        return model

    stage = RowStage(
        name="level",
        code_version="1",
        description="Mean of all pixels, and whose work it was.",
        config=NoConfig(),
        inputs=(Input("faces", ("image",)),),
        outputs=columns,
        load=load,
        batch_size=2,
    )
    return dataclasses.replace(stage, **changes)


def run(lake: Lake, stage: RowStage, engine: Engine, **options: Any) -> tuple[int, list[str]]:
    """Rows computed, and what was said."""
    told, graph = Told(), StageGraph((stage,))
    graph.prepare(lake)
    done = run_stages(lake, graph, [stage.name], device="cpu", engine=engine, progress=told, **options)
    return done.computed_rows[stage.name], told.said


def column(lake: Lake, name: str) -> dict[str, Any]:
    return {row["image_id"]: row[name] for row in lake.faces.snapshot().scan(["image_id", name]).to_pylist()}


def states(lake: Lake, stage: str) -> dict[str, Any]:
    return column(lake, f"{stage}_state")


def digests(lake: Lake, graph: StageGraph) -> dict[str, dict[str, str]]:
    """Data version of every shard, by row stage."""
    planner = Planner(lake, graph)
    tables = {name: planner.table(name) for name in graph.tables()}
    return {stage.name: tables[stage.table].shard_digests(stage.name) for stage in graph.row_stages()}


def warm(lake: Lake) -> dict[str, list[int]]:
    """Processes of the actors of a lake, by role."""
    found: dict[str, list[int]] = {}
    for actor, about in ray_actors.about(ray_actors.named_actors(lake_namespace(lake.uri))).items():
        found.setdefault(actor.role, []).append(about.process)
    return {role: sorted(processes) for role, processes in found.items()}
