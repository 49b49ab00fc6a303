"""The user's ledger of model files: what was trusted when, which licences were accepted, for which use.

One JSON file beside the weights. It is written whole under a lock and put in place by a rename, so that a
kill leaves the old one or the new one.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.weights.errors import WeightError

Use = Literal["research", "commercial"]

FOLDER_VARIABLE = "ORCHARD_WEIGHTS"
LEDGER_NAME = "ledger.json"


def weights_folder() -> Path:
    """Where converted and user-supplied files and the ledger lie: ORCHARD_WEIGHTS, or the user's cache."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/orchard/weights").expanduser()


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trust(_Record):
    """What a role's file was when it was first pulled or converted; it may not change silently afterwards."""

    sha256: str = Field(description="Digest of the file as it came.")
    size: int = Field(description="Bytes.")
    revision: str = Field(default="", description="Hub commit it came from.")
    converted: str = Field(default="", description="Name of the converted file, below the role's folder.")
    converted_sha256: str = Field(default="", description="Digest of the converted file.")
    on: str = Field(description="Date and time, UTC.")


class Acceptance(_Record):
    """That somebody read a licence and accepted it for a use."""

    licence: str
    use: Use
    on: str = Field(description="Date and time, UTC.")


class LedgerContent(_Record):
    """Everything that is recorded."""

    use: Use | None = Field(default=None, description="What the user intends to do with the weights.")
    trusted: dict[str, Trust] = Field(default={}, description="By role.")
    accepted: dict[str, Acceptance] = Field(default={}, description="By role.")


def read_ledger() -> LedgerContent:
    """What is recorded; empty when nothing was yet. Raises WeightError when the file cannot be read."""
    path = weights_folder() / LEDGER_NAME
    try:
        return LedgerContent.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return LedgerContent()
    except (ValidationError, UnicodeDecodeError) as error:
        raise WeightError(
            "all roles",
            f"the ledger {path} cannot be read ({str(error).splitlines()[0]})",
            f"restore it from a backup, or remove it and accept the licences again: rm {path}",
        ) from error


def record_trust(role: str, trust: Trust) -> None:
    """Record what a role's file is; replaces an earlier record."""
    _change(lambda old: {"trusted": {**old.trusted, role: trust}})


def record_use(use: Use) -> None:
    """Record the intended use. Acceptances for another use stay recorded and no longer count."""
    _change(lambda old: {"use": use})


def record_acceptance(role: str, licence: str, use: Use) -> None:
    """Record that a licence was read and accepted."""
    accepted = Acceptance(licence=licence, use=use, on=now())
    _change(lambda old: {"accepted": {**old.accepted, role: accepted}})


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _change(update: Callable[[LedgerContent], dict[str, Any]]) -> None:
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{LEDGER_NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = read_ledger()
        content = old.model_copy(update=update(old))
        temporary = folder / f"{LEDGER_NAME}.{uuid.uuid4().hex}"
        temporary.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / LEDGER_NAME)
