"""A small lake over a whole DAG that is made in seconds.

Stages are the cheap ones of tests/crash/small_orchard.py.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from assets.planner import Planner
from assets.stage import StageGraph
from pipeline.automation.launching import stale_launches
from pipeline.execution import run_stages
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake


@pytest.fixture(scope="module")
def small() -> ModuleType:
    path = Path(__file__).parents[2] / "crash" / "small_orchard.py"
    spec = importlib.util.spec_from_file_location("small_orchard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Orchard:
    """A lake of 16 photographs in three shards, nothing computed."""

    lake: Lake
    photos: Path
    graph: StageGraph

    def launches(self, *stages: str) -> list[tuple[str, tuple[str, ...]]]:
        found = stale_launches(Planner(self.lake, self.graph), stages or self.graph.names)
        return [(launch.target, launch.assets) for launch in found]

    def run(self, *stages: str) -> dict[str, int]:
        return run_stages(self.lake, self.graph, stages, device="cpu").computed_rows

    def rows(self) -> int:
        return self.lake.faces.snapshot().dataset.count_rows()


@pytest.fixture
def orchard(small: ModuleType, tmp_path: Path) -> Orchard:
    small.write_photos(tmp_path / "photos")
    lake = Lake.open(tmp_path / "lake", create=True)
    ingest(lake, tmp_path / "photos", shard_size=small.SHARD_SIZE, consent=Consent.SYNTHETIC)
    graph = small.orchard()
    graph.prepare(lake)
    return Orchard(lake, tmp_path / "photos", graph)
