"""`--retry`: only what failed is computed again, and only what changes by it is computed below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from assets.planner import Planner, Retry
from assets.stage import StageGraph
from pipeline.commands.run import parse_retry
from pipeline.execution import run_stages
from pipeline.options import UsageError
from resources.lake.lake import Lake
from resources.photos.reasons import Reason, RowError


@pytest.fixture
def failing() -> dict[float, Reason]:
    """Brightnesses whose rows fail in `band` at the moment, with the reason."""
    return {40.0: Reason.MODEL_ERROR, 60.0: Reason.MODEL_ERROR, 200.0: Reason.LOW_QUALITY}


@pytest.fixture
def moody(graph: StageGraph, changed: Callable, failing: dict[float, Reason]) -> StageGraph:
    """The graph with a `band` that fails on some rows, for reasons outside the lake."""

    def load(context):
        def compute(rows: Sequence) -> list:
            reasons = [failing.get(round(float(row["brightness"]))) for row in rows]
            return [
                RowError(reason, "as told") if reason else {"band": int(row["brightness"] // 64)}
                for row, reason in zip(rows, reasons, strict=True)
            ]

        return compute

    return changed(graph, "band", load=load)


def states(lake: Lake, stage: str) -> dict[str, tuple]:
    rows = lake.faces.snapshot().scan(["image_id", f"{stage}_state"]).to_pylist()
    found = {row["image_id"]: row[f"{stage}_state"] for row in rows}
    return {key: (state["status"], state["reason"], state["attempt"]) for key, state in found.items()}


def run(lake: Lake, graph: StageGraph, retry: Retry | None = None) -> dict[str, int]:
    return run_stages(lake, graph, graph.names, retry=retry, device="cpu").computed_rows


def test_rows_of_one_reason_are_tried_again_and_counted(lake, moody, failing) -> None:
    run(lake, moody)
    failing.clear()
    assert run(lake, moody) == {"brightness": 0, "band": 0, "caption": 0, "total": 0}
    tried = run(lake, moody, Retry("model_error"))
    assert tried == {"brightness": 0, "band": 2, "caption": 2, "total": 1}
    assert states(lake, "band")["p0/01"] == ("ok", None, 2)
    assert states(lake, "caption")["p0/02"] == ("ok", None, 1)
    assert states(lake, "band")["p2/01"] == ("quarantined", "low_quality", 1)
    assert run(lake, moody, Retry()) == {"brightness": 0, "band": 1, "caption": 1, "total": 1}


def test_rows_that_fail_alike_again_change_nothing_below(lake, moody) -> None:
    run(lake, moody)
    before = Planner(lake, moody).table("faces").shard_digests("band")
    assert run(lake, moody, Retry()) == {"brightness": 0, "band": 3, "caption": 0, "total": 0}
    assert run(lake, moody, Retry()) == {"brightness": 0, "band": 3, "caption": 0, "total": 0}
    assert Planner(lake, moody).table("faces").shard_digests("band") == before
    assert states(lake, "band")["p0/01"] == ("quarantined", "model_error", 3)
    assert states(lake, "caption")["p0/01"] == ("quarantined", "upstream", 1)


def test_a_retry_is_limited_to_stages_and_shards(lake, moody, failing) -> None:
    run(lake, moody)
    failing.clear()
    some = run_stages(lake, moody, ["band"], shards=["shard-00002"], retry=Retry(), device="cpu")
    assert some.computed_rows == {"band": 1}
    assert states(lake, "band")["p0/01"][0] == "quarantined"
    plan = Planner(lake, moody, retried={"band": Retry()}).plan(moody["band"])
    assert (plan.stale_rows, plan.why) == (2, {"retried": 2})


def test_what_retry_takes_on_the_command_line() -> None:
    assert parse_retry("quarantined") == Retry()
    assert parse_retry("quarantined:no_face") == Retry("no_face")
    for wrong in ("failed", "quarantined:", "quarantined:upstream", "quarantined:bad_luck", ""):
        with pytest.raises(UsageError, match="no_face"):
            parse_retry(wrong)
