"""The licence gate: what the weights may be used for, asked once and kept in the ledger.

Weights whose licence allows any use need no question. All others are refused until somebody has said what for
(`research` or `commercial`) and has accepted the licence for that use.
"""

from __future__ import annotations

from collections.abc import Iterable

from resources.weights.entries import WeightEntry
from resources.weights.errors import WeightError
from resources.weights.ledger import LedgerContent, Use, read_ledger, record_acceptance, record_use


def check_licence(entry: WeightEntry, ledger: LedgerContent | None = None) -> None:
    """Refuse weights that the intended use forbids, or whose licence nobody has accepted for it.

    Raises:
        WeightError: names licence, use and the command that accepts.
    """
    content = ledger if ledger is not None else read_ledger()
    if content.use == "commercial" and not entry.commercial_ok:
        raise WeightError(
            entry.role,
            f"its licence ({entry.licence}) does not allow commercial use, which is the use that was set",
            "take a profile without it, or set the other use: orchard weights licences --use research",
        )
    if not entry.asks:
        return
    command = f"orchard weights licences --use research --accept {entry.role}"
    accepted = content.accepted.get(entry.role)
    if content.use is None or accepted is None:
        raise WeightError(entry.role, f"its licence ({entry.licence}) was not accepted yet", command)
    if accepted.use != content.use or accepted.licence != entry.licence:
        raise WeightError(
            entry.role,
            f"its licence was accepted on {accepted.on} as {accepted.licence!r} for {accepted.use} use; "
            f"now it is {entry.licence!r} and the use is {content.use}",
            command.replace("research", content.use),
        )


def accept(entries: Iterable[WeightEntry], use: Use) -> None:
    """Set the intended use and record that the entries' licences were read and accepted for it.

    Raises:
        WeightError: a licence forbids that use; then nothing is recorded.
    """
    chosen = list(entries)
    for entry in chosen:
        if use == "commercial" and not entry.commercial_ok:
            raise WeightError(
                entry.role,
                f"its licence ({entry.licence}) does not allow commercial use",
                "do not accept it for that use; `orchard weights list` shows which allow it",
            )
    record_use(use)
    for entry in chosen:
        record_acceptance(entry.role, entry.licence, use)
