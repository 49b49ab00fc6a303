"""Whether the tensors of a file are exactly those that a model wants: names and shapes, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

NAMES_SHOWN = 6

Shape = tuple[int, ...]


class BaseMismatch(ValueError):
    """Base weights do not fit; the message names the file and the tensors."""


def compare(path: Path, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Compare whole sets of names and shapes; one BaseMismatch names every kind of difference."""
    complaints = []
    if missing := expected.keys() - found.keys():
        complaints.append(f"missing {some(missing)}")
    if unexpected := found.keys() - expected.keys():
        complaints.append(f"unexpected {some(unexpected)}")
    reshaped = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if reshaped:
        complaints.append(f"wrong shapes {some(reshaped)}")
    if complaints:
        raise BaseMismatch(f"{path} does not fit its config: {'; '.join(complaints)}")


def some(names: Iterable[str]) -> str:
    """Return the first few names, sorted, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more
