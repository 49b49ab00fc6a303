"""The report of a finished lake, and a lake of photographs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from assets.stage import StageGraph
from pipeline.profiles import profile
from pipeline.report import ReportData, collect, render
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

Reporting = Callable[[Lake], ReportData]


@pytest.fixture(scope="session")
def graph() -> StageGraph:
    return profile("smoke").graph()


@pytest.fixture(scope="session")
def report_of(graph: StageGraph) -> Reporting:
    """What is collected of a lake."""
    return lambda lake: collect(lake, graph, profile="smoke", description="For tests.")


@pytest.fixture(scope="session")
def finished(smoke_lake: Any, report_of: Reporting) -> ReportData:
    return report_of(smoke_lake.lake)


@pytest.fixture(scope="session")
def html(finished: ReportData) -> str:
    return render(finished)


@pytest.fixture
def photographs_only(
    tmp_path: Path,
    graph: StageGraph,
    good_photos: Mapping[str, bytes],
    write_photos: Callable[[Path, Mapping[str, bytes]], list[Path]],
) -> Lake:
    """Three photographs, one of them broken, and nothing computed."""
    names = ("baseline.jpg", "plain.png")
    photos = {f"person/{name}": good_photos[name] for name in names}
    write_photos(tmp_path / "photos", {**photos, "person/broken.jpg": b"no picture"})
    lake = Lake.open(tmp_path / "new lake", create=True)
    ingest(lake, tmp_path / "photos", layout="identity-folders", consent=Consent.ANNOTATION_ONLY)
    graph.prepare(lake)
    return lake
