"""What a check found, in words and figures that Dagster and the command line show alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from assets.checks.limits import ShareLimit

NAMED_ROWS = 10
"""How many offending rows a finding names."""


class Severity(StrEnum):
    """How bad a failed check is; the values are Dagster's own."""

    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Finding:
    """Outcome of one check: whether it passed, one sentence, and figures.

    A sentence of a failed check names rows and says what to do. `metadata` holds plain JSON values.
    """

    passed: bool
    message: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity = Severity.ERROR


def named(keys: Sequence[str]) -> str:
    """Up to ten keys in one line, and how many more there are."""
    more = len(keys) - NAMED_ROWS
    return ", ".join(keys[:NAMED_ROWS]) + (f" and {more} more" if more > 0 else "")


def first_keys(keys: Iterable[str]) -> list[str]:
    """The keys that a finding's metadata lists."""
    return list(keys)[:NAMED_ROWS]


def judged(share: float, limit: ShareLimit) -> tuple[bool, Severity]:
    """Whether a share passes, and how bad it is if it does not."""
    return share <= limit.warn, Severity.ERROR if share > limit.error else Severity.WARN
