"""Checks of rows, ids, columns and shares: each passes on a real lake and fails on the same lake, damaged."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from assets.checks.catalogue import DataChecks, checks_of
from assets.checks.findings import Severity
from assets.checks.limits import CheckLimits, ShareLimit


def test_a_finished_lake_passes_every_check(smoke_lake, graph) -> None:
    checks = DataChecks(smoke_lake.lake, graph)
    seen: dict[str, set[str]] = {}
    for name in ("faces", *graph.names):
        table = checks_of(graph, name)[0].name == "rows_accounted"
        stage_table = "faces" if name == "faces" else getattr(graph[name], "table", None)
        shards = smoke_lake.lake.table(stage_table).snapshot().shards() if table and stage_table else [None]
        for run in (run for shard in shards for run in checks.run(name, shard)):
            assert run.finding.passed, run
            json.dumps(run.as_json())
            seen.setdefault(run.stage, set()).add(run.check.name)
    rows = {"rows_accounted", "schema_as_declared", "quarantined_share"}
    assert seen["faces"] == {*rows, "ids_unique"}
    assert seen["latents"] == {*rows, "values_finite"}
    assert seen["landmarks"] == {*rows, "values_finite", "landmarks_plausible"}
    assert seen["iris"] == {*rows, "values_finite", "iris_plausible"}
    for name in ("pseudo_triplets", "swaps", "diffface_swaps"):
        assert seen[name] == {*rows, "values_finite", "ids_unique"}
    assert seen["triplet_scores"] == {*rows, "values_finite"}
    made = ("release", "prompt_embeddings", "teacher", "triplets_release", "student")
    for name in (*made, "evaluation", "frontier", "evaluation_protocol"):
        assert seen[name] == {"artifact_complete"}


@pytest.mark.parametrize(
    "parts",
    [
        {"status": "quarantined", "reason": "no_such_reason"},
        {"status": "quarantined", "reason": None},
        {"status": "finished"},
        {"digest": None},
        {"reason": "no_face"},
    ],
    ids=["unknown reason", "no reason", "unknown status", "no digest", "ok with a reason"],
)
def test_rows_whose_state_says_nothing_are_not_accounted_for(damage, look, parts) -> None:
    bad = damage.ids()[:2]
    damage.state("iris", bad, **parts)
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.severity is Severity.ERROR
    assert run.finding.metadata["unaccounted_rows"] == bad
    assert all(key in run.finding.message for key in bad)
    assert "orchard run iris --force" in run.finding.message


def test_pending_rows_are_counted_by_the_planner(damage, look, graph) -> None:
    damage.state("landmarks", damage.ids()[:3], digest=bytes(16))
    run = look("iris", "rows_accounted")
    assert not run.finding.passed
    assert run.finding.metadata == {"rows": 8, "ok": 8, "quarantined": 0, "pending": 3}
    assert look("iris", "rows_accounted", "shard-00000").finding.passed


def test_an_id_that_two_rows_share_is_found_in_whatever_shard(lake, damage, look) -> None:
    first, second = damage.ids("shard-00000")[0], damage.ids()[0]
    damage.rewrite("faces", lambda rows: damage.put(rows, "image_id", "image_id", {second: first}))
    run = look("faces", "ids_unique", "shard-00002")
    assert not run.finding.passed
    assert run.finding.metadata["repeated_ids"] == [first]
    assert first in run.finding.message
    assert "orchard forget --image ID" in run.finding.message
    pair = lake.swaps.snapshot().scan(["pair_id"])["pair_id"].to_pylist()
    damage.rewrite(
        "swaps", lambda rows: damage.put(rows, "pair_id", "pair_id", {pair[1]: pair[0], pair[2]: ""})
    )
    run = look("swaps", "ids_unique", "swaps-00000")
    assert (run.finding.metadata["repeated"], run.finding.metadata["empty"]) == (1, 1)
    assert pair[0] in run.finding.message


def test_columns_that_are_not_as_declared_are_named(lake, damage, look) -> None:
    def other(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("face_count")
        rows = rows.set_column(place, "face_count", rows["face_count"].cast(pa.int64()))
        place = rows.schema.get_field_index("identity")
        rows = rows.set_column(place, pa.field("identity", pa.string(), nullable=True), rows["identity"])
        return rows.drop_columns(["pose"])

    damage.rewrite("faces", other)
    run = look("landmarks", "schema_as_declared")
    assert run.finding.metadata["wrong"] == ["pose is missing", "face_count is int64, declared int16"]
    assert "--lake" in run.finding.message
    [wrong] = look("faces", "schema_as_declared").finding.metadata["wrong"]
    assert wrong == "identity may be null, declared the other way"
    assert look("iris", "schema_as_declared").finding.passed


def test_quarantined_rows_warn_above_the_soft_limit_and_fail_above_the_hard_one(damage, look) -> None:
    keys = damage.ids()
    damage.state("masks", keys[:1], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.WARN)
    assert run.finding.metadata["reasons"] == {"no_face": 1}
    assert run.finding.metadata["rows"] == keys[:1]
    assert "12.5%" in run.finding.message
    loose = CheckLimits(quarantined_of={"masks": ShareLimit(warn=0.2, error=0.9)})
    assert look("masks", "quarantined_share", limits=loose).finding.passed
    damage.state("masks", keys[:5], status="quarantined", reason="no_face")
    run = look("masks", "quarantined_share")
    assert (run.finding.passed, run.finding.severity) == (False, Severity.ERROR)
    assert "orchard run masks --retry quarantined" in run.finding.message


def test_rows_lost_above_are_told_where_they_were_lost(damage, look) -> None:
    damage.state("condition", damage.ids()[:6], status="quarantined", reason="upstream")
    run = look("condition", "quarantined_share")
    assert run.finding.passed
    assert run.finding.metadata["rows_reached"] == 2
    assert run.finding.metadata["reasons"] == {"upstream": 6}


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="below that for a warning"):
        ShareLimit(warn=0.5, error=0.1)
