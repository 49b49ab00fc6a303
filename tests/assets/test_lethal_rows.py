"""Rows that kill the process which computes them are found by deaths alone, and only those."""

from __future__ import annotations

import pytest

from assets.lethal_rows import LethalRows

STAGES = ("level", "edge")
BATCH = 8


def settle(rows: int, killers: dict[str, set[int]]) -> tuple[set[tuple[str, int]], int]:
    """Play all processes: what is condemned, and how many died until everything else was computed."""
    lethal, deaths, left = LethalRows(STAGES), 0, set(range(rows))
    for _ in range(200):
        condemned = set(lethal.condemned)
        probe = lethal.probe
        if probe is None:
            batch = sorted(left - {row for _, row in condemned})[:BATCH]
            if not batch:
                return condemned, deaths
            stages, here = STAGES, frozenset(batch)
        else:
            stages, here = probe.stages, probe.rows
        stage = next((name for name in stages if here & killers.get(name, set())), None)
        if stage is None:
            lethal.survived()
            left -= here if probe is None else set()
        else:
            deaths += 1
            # the first time nothing certain is heard: what is told last is lost with the process
            lethal.died(stage, here if lethal.is_careful else ())
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    "killers",
    [
        {"level": {5}},
        {"edge": {5}},
        {"level": {0}, "edge": {7}},
        {"level": {3, 4, 20}},
        {"edge": set(range(8, 16))},
    ],
)
def test_exactly_the_rows_that_kill_are_condemned(killers: dict[str, set[int]]) -> None:
    condemned, _ = settle(24, killers)
    assert condemned == {(stage, row) for stage, rows in killers.items() for row in rows}


def test_one_killer_costs_one_death_a_halving() -> None:
    _, deaths = settle(24, {"level": {5}})
    assert deaths == 1 + 1 + 4  # unheard, at its batch, and of 8, 4, 2 rows and one


def test_deaths_that_are_no_rows_fault_condemn_nobody() -> None:
    lethal = LethalRows(STAGES)
    lethal.died("edge", range(8))
    assert lethal.is_careful
    assert lethal.probe is None  # once may be chance
    lethal.survived()
    lethal.died("edge", range(8, 16))
    assert lethal.probe is not None
    assert lethal.probe.rows == set(range(8, 16))
    lethal.survived()  # apart they do no harm
    assert lethal.probe is None
    assert not lethal.condemned


def test_deaths_without_a_row_that_kills_end_in_despair() -> None:
    lethal = LethalRows(STAGES)
    for start in range(0, 40, 8):
        assert not lethal.is_hopeless
        lethal.died("level", range(start, start + 8))
        lethal.survived()
    assert lethal.is_hopeless


def test_the_stage_of_a_single_row_is_proved_one_stage_at_a_time() -> None:
    """The last thing that was heard of a process may be of the stage before the one that killed it."""
    lethal = LethalRows(STAGES)
    for _ in range(2):
        lethal.died("edge", [4])
    assert lethal.probe is not None
    lethal.died("level", [4])  # told of `level`, killed in `edge`
    assert lethal.probe.stages == ("level",)
    lethal.survived()
    assert lethal.probe.stages == ("edge",)
    lethal.died("edge", [4])
    assert lethal.condemned == [("edge", 4)]
    assert lethal.probe is None
