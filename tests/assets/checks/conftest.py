"""A finished lake to be damaged, and one check of it at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.checks.catalogue import CheckRun, DataChecks
from assets.checks.limits import CheckLimits
from assets.stage import StageGraph
from pipeline.profiles import profile
from resources.lake.lake import Lake

SHARD = "shard-00001"


@pytest.fixture(scope="session")
def graph() -> StageGraph:
    return profile("smoke").graph()


@pytest.fixture
def lake(smoke_lake, tmp_path: Path) -> Lake:
    """The finished lake of the profile `smoke`, to be damaged."""
    shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


@pytest.fixture
def look(lake: Lake, graph: StageGraph) -> Callable[..., CheckRun]:
    """Run one check of one stage on one shard of the lake as it is now."""

    def run(stage: str, check: str, shard: str | None = SHARD, limits: CheckLimits | None = None) -> CheckRun:
        limited = StageGraph(graph.stages, limits) if limits else graph
        [found] = DataChecks(lake, limited).run(stage, shard, names=[check])
        assert found.check.name == check
        return found

    return run
