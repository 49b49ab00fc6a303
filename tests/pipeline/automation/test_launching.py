"""What a refresh finds and what it launches, over real lakes."""

from __future__ import annotations

import logging
import shutil
from types import ModuleType
from typing import Any

import pytest

from assets.planner import Planner
from pipeline.automation.discovery import discover
from pipeline.automation.launching import Failures, stale_launches
from pipeline.automation.settings import AutomationSettings, refreshed_stages
from pipeline.options import UsageError
from pipeline.profiles import profile

log = logging.getLogger("refresh")
ROWS = ("aesthetics", "identity_embedding", "masks", "latents")
SHARDS = ("shard-00000", "shard-00001", "shard-00002")


def test_the_defaults_train_nothing() -> None:
    graph = profile("tiny").graph()
    default = refreshed_stages(graph, ())
    assert default[-1] == "release"
    assert {"teacher", "student", "pseudo_triplets", "swaps"}.isdisjoint(default)
    assert set(default[:-1]) == {stage.name for stage in graph.row_stages("faces")}
    assert refreshed_stages(graph, ["all"]) == list(graph.names)
    assert refreshed_stages(graph, ["masks", "landmarks"]) == ["landmarks", "masks"]
    with pytest.raises(UsageError, match="no stage mask; there are"):
        refreshed_stages(graph, ["mask"])


def test_settings_come_from_the_environment() -> None:
    assert AutomationSettings.from_environment({}) == AutomationSettings()
    found = AutomationSettings.from_environment(
        {
            "ORCHARD_REFRESH_CRON": "30 2 * * *",
            "ORCHARD_REFRESH_SECONDS": "5",
            "ORCHARD_REFRESH_STAGES": "landmarks, iris",
            "ORCHARD_REFRESH_PRUNE": "true",
        }
    )
    assert found == AutomationSettings(cron="30 2 * * *", seconds=5, stages=("landmarks", "iris"), prune=True)
    with pytest.raises(ValueError, match="seconds"):
        AutomationSettings.from_environment({"ORCHARD_REFRESH_SECONDS": "0"})


def test_only_stale_shards_are_launched_then_what_is_made_of_them(orchard: Any, small: ModuleType) -> None:
    # the prompts wait for no photograph
    prompts = ("prompt_embeddings", ("prompt_embeddings",))
    assert orchard.launches() == [*((shard, ROWS) for shard in SHARDS), prompts]
    orchard.run(*ROWS, "prompt_embeddings")
    assert orchard.launches() == [("release", ("release",))]
    assert orchard.launches(*ROWS) == []
    small.paint(orchard.photos / "p2" / "00.png", 9002)
    discover(orchard.lake, log, prune=False)
    assert orchard.launches() == [("shard-00001", ROWS)]
    [launch] = stale_launches(Planner(orchard.lake, orchard.graph), ROWS)
    assert launch.why.startswith("aesthetics: 1 input:faces; identity_embedding: 1 input:faces; ")
    # what waits for a stage that may not be launched is not launched either
    assert orchard.launches("identity_embedding", "latents") == [("shard-00001", ("identity_embedding",))]
    orchard.run(*ROWS, "release")
    assert orchard.launches(*ROWS, "release", "teacher") == [("teacher", ("teacher",))]
    assert orchard.launches(*ROWS, "release") == []


def test_pair_tables_wait_for_everything_above_them(orchard: Any, small: ModuleType) -> None:
    small.pin_swap_pairs(orchard.lake)
    stages = ("release", "pseudo_triplets", "triplets_release", "swaps")
    orchard.run(*ROWS, "release")
    triplets = [(shard, ("pseudo_triplets",)) for shard in orchard.lake.triplets.snapshot().shards()]
    swaps = [(shard, ("swaps",)) for shard in orchard.lake.swaps.snapshot().shards()]
    assert len(triplets) > 1
    assert orchard.launches(*stages) == [*triplets, *swaps]
    orchard.run("pseudo_triplets")
    assert orchard.launches(*stages) == [*swaps, ("triplets_release", ("triplets_release",))]
    small.paint(orchard.photos / "p2" / "00.png", 9002)
    discover(orchard.lake, log, prune=False)
    assert orchard.launches(*stages) == []
    assert orchard.launches(*ROWS, *stages) == [("shard-00001", ROWS)]


def test_a_stale_artifact_holds_back_what_is_made_with_it(smoke_lake: Any) -> None:
    graph = profile("smoke").graph()

    def launches(*forced: str) -> list[tuple[str, tuple[str, ...]]]:
        found = stale_launches(Planner(smoke_lake.lake, graph, forced=forced), graph.names)
        return [(launch.target, launch.assets) for launch in found]

    assert launches() == []
    assert launches("teacher") == [("teacher", ("teacher",))]
    below = ("masks", "condition", "latents")
    assert launches("masks") == [(shard, below) for shard in smoke_lake.lake.faces.snapshot().shards()]


def test_discovery_reports_and_keeps_what_is_gone(orchard: Any, small: ModuleType, caplog) -> None:
    small.change_photos(orchard.photos)
    with caplog.at_level(logging.INFO):
        [report] = discover(orchard.lake, log, prune=False).values()
    assert (report["added"], report["replaced"], report["pruned"]) == (4, 3, 0)
    assert report["removed"] == ["p1/02", "p3/00"]
    assert "2 files are gone, their rows kept: p1/02, p3/00" in caplog.text
    assert orchard.rows() == 20
    [report] = discover(orchard.lake, log, prune=True).values()
    assert (report["removed"], report["pruned"]) == (["p1/02", "p3/00"], 2)
    assert orchard.rows() == 18
    [report] = discover(orchard.lake, log, prune=True).values()
    assert (report["removed"], report["added"], report["replaced"]) == ([], 0, 0)


@pytest.mark.parametrize("state", ["missing", "empty", "folders without a photograph"])
def test_a_disk_that_is_not_mounted_is_never_pruned(orchard: Any, state: str, caplog) -> None:
    shutil.rmtree(orchard.photos)
    if state != "missing":
        orchard.photos.mkdir()
    if state == "folders without a photograph":
        (orchard.photos / "p0").mkdir()
        (orchard.photos / "p0" / "readme.txt").write_text("mount the disk here")
    assert discover(orchard.lake, log, prune=True) == {}
    assert orchard.rows() == 16
    assert f"source folder {orchard.photos}" in caplog.text
    assert "its rows are kept" in caplog.text


def test_the_pause_after_failures_doubles_up_to_an_hour() -> None:
    pauses = [Failures(count, 1000.0).due(60) - 1000 for count in (1, 2, 3, 4, 7, 500)]
    assert pauses == [0, 60, 180, 420, 3600, 3600]
