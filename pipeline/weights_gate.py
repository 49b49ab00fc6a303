"""What a profile lacks, said at once: before any work, and of all its model files together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resources.weights.entries import WeightEntry
from resources.weights.errors import WeightError
from resources.weights.ledger import read_ledger
from resources.weights.licences import check_licence
from resources.weights.resolve import find_entry, resolve


def require_licences(name: str, roles: Iterable[str]) -> None:
    """Refuse a profile that needs weights which the intended use forbids, or whose licence was not accepted.

    Raises:
        WeightError: one for all of them.
    """
    entries = [find_entry(role) for role in roles]
    ledger = read_ledger()
    forbidden = [entry for entry in entries if ledger.use == "commercial" and not entry.commercial_ok]
    if forbidden:
        raise _error(
            name,
            f"{len(forbidden)} of its {len(entries)} model files may not be used commercially, which is the "
            f"use that was set: {_with_licences(forbidden)}",
            "take a profile without them, such as flux-schnell, or set the other use: "
            "orchard weights licences --use research",
        )
    asked = [entry for entry in entries if _refused(entry)]
    if asked:
        use = ledger.use or "research"
        raise _error(
            name,
            f"the licences of {len(asked)} of its {len(entries)} model files were not accepted yet: "
            f"{_with_licences(asked)}",
            f"orchard weights licences --use {use} --profile {name} shows and accepts them; then "
            f"orchard weights pull --profile {name}",
        )


def require_weights(name: str, roles: Sequence[str]) -> None:
    """Refuse a profile that may not be used, or whose model files are not all here and right.

    Raises:
        WeightError: one for all of them; a single one keeps its own words.
    """
    require_licences(name, roles)
    lacking: list[WeightError] = []
    for role in roles:
        try:
            resolve(role)
        except WeightError as error:
            lacking.append(error)
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        raise _error(
            name,
            f"{len(lacking)} of the {len(roles)} model files are not here: "
            f"{', '.join(error.role for error in lacking)}",
            f"orchard weights pull --profile {name}; orchard doctor --profile {name} says what each wants",
        )


def _refused(entry: WeightEntry) -> bool:
    try:
        check_licence(entry)
    except WeightError:
        return True
    return False


def _with_licences(entries: Sequence[WeightEntry]) -> str:
    return ", ".join(f"{entry.role} ({entry.licence})" for entry in entries)


def _error(name: str, problem: str, remedy: str) -> WeightError:
    return WeightError(f"the profile {name}", problem, remedy)
